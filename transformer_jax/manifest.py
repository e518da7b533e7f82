"""What a checkpoint's files were when it was written: their SHA-256, beside them.

Orbax commits a checkpoint whole, and later restores a flipped bit in it without a word. So the
manifest is written after that commit, and compared before orbax reads; a checkpoint without one
does not count. Its format is that of `sha256sum -c manifest.sha256`. It tells of accidents, not of
a forger, who could write it anew.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from transformer_jax.config import write_whole

NAME = "manifest.sha256"


def write(folder: Path) -> None:
    """Lists every file in `folder`.

    Raises:
      UserError: if it cannot be written.
    """
    lines = [f"{_digest(folder / name)}  {name}\n" for name in _files(folder)]
    write_whole(folder / NAME, "".join(lines))


def exists(folder: Path) -> bool:
    """Whether `folder` was written whole, as far as its manifest says."""
    return (folder / NAME).exists()


def damaged(folder: Path, *, below: str = "") -> list[str]:
    """The files of `folder` that are missing or not what they were, and what befell each.

    Args:
      folder: has a manifest.
      below: looks only at files whose path in `folder` starts so; "" = at all of them.
    """
    try:
        listed = [line.split("  ", 1) for line in (folder / NAME).read_text().splitlines()]
        digests = {name: digest for digest, name in listed}
    except ValueError:  # no text, or not two columns
        return [f"{NAME} is damaged"]
    if not digests:
        return [f"{NAME} is empty"]
    return [
        f"{name} {reason}"
        for name, digest in sorted(digests.items())
        if name.startswith(below) and (reason := _difference(folder / name, digest))
    ]


def _difference(path: Path, digest: str) -> str:
    try:
        return "" if _digest(path) == digest else "is not what was written"
    except FileNotFoundError:
        return "is missing"
    except OSError as e:
        return f"cannot be read ({e.strerror or e})"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[str]:
    """Paths in `folder`, sorted, without the manifest's own."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from (f"{path.name}/{name}" for name in _files(path))
        elif path.name not in (NAME, NAME + ".tmp"):
            yield path.name
