"""Errors that the launcher reports in one line, and the exit status of a preempted run."""

import difflib
from collections.abc import Sequence


class UserError(ValueError):
    """A mistake that the user can correct; the launcher prints it as one line, no traceback."""


class Preempted(BaseException):
    """A run has stopped because a signal asked for it; the message names what is saved.

    Not an Exception: only the launcher handles it, and exits with `PREEMPTED_STATUS`.
    """


PREEMPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command, run again, resumes


def nearest(name: str, known: Sequence[str]) -> str:
    """ " (did you mean …?)" for the known name nearest to `name`, or "" when none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def one_line(error: BaseException, limit: int | None = None) -> str:
    """The message of an error on one line, at most `limit` characters of it."""
    return " ".join(str(error).split())[:limit]
