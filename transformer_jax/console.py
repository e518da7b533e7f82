"""What a person sees of a run: lines and progress bars on standard error."""

import sys

from tqdm import tqdm

from transformer_jax.parallel import processes


def log(message: str) -> None:
    """One line to standard error, above a progress bar if there is one; from one process."""
    if not processes.is_writer():
        return
    tqdm.write(message, file=sys.stderr)


def progress_bar(total: int, description: str) -> tqdm:
    """A bar on a terminal, nothing elsewhere."""
    disable = None if processes.is_writer() else True
    return tqdm(total=total, desc=description, disable=disable, leave=False, dynamic_ncols=True)


def clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
