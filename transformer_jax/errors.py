"""Errors that the launcher reports in one line, and the exit status of a preempted run."""

import difflib


class UserError(ValueError):
    """What a user caused and can mend: the launcher prints it as one line, without a traceback."""


class Preempted(BaseException):
    """A signal asked a run to stop, and it has; says what is saved.

    Not an Exception: the launcher alone handles it, and ends with `PREEMPTED_STATUS`.
    """


PREEMPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same line, run again, goes on


def nearest(name: str, known: list[str]) -> str:
    """ " (did you mean …?)" for the known name nearest to `name`, or "" when none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""
