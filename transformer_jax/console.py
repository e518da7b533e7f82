"""What a person sees of a run: lines and progress bars on standard error."""

import sys
from collections.abc import Sequence

from tqdm import tqdm

_silenced = False


def silence() -> None:
    """Silences `log` and progress bars: of several processes, one prints for all."""
    global _silenced
    _silenced = True


def log(message: str) -> None:
    """Prints one line to standard error, above a progress bar if there is one."""
    if not _silenced:
        tqdm.write(message, file=sys.stderr)


def progress_bar(total: int, description: str) -> tqdm:
    """A bar on a terminal, nothing elsewhere."""
    disable = True if _silenced else None
    return tqdm(total=total, desc=description, disable=disable, leave=False, dynamic_ncols=True)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def table(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """One line for each row, its columns aligned: the first `left` to the left, the others right.

    >>> table([("name", "steps"), ("a", "1,000"), ("total", "7")])
    ['name   steps', 'a      1,000', 'total      7']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{c:{'<' if i < left else '>'}{widths[i]}}" for i, c in enumerate(row)).rstrip()
        for row in rows
    ]
