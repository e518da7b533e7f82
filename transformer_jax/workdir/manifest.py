"""What a checkpoint's files were when it was written: their SHA-256, beside them.

Orbax commits a checkpoint whole, and later restores a flipped bit in it without a word. So the
manifest is written after that commit, and compared before orbax reads; a checkpoint without one
does not count. Its format is that of `sha256sum -c manifest.sha256`. It tells of accidents, not of
a forger, who could write it anew.
"""

import hashlib
import stat
from pathlib import Path

from transformer_jax.errors import UserError
from transformer_jax.storage import is_remote, write_whole

NAME = "manifest.sha256"
FOLDER = "checkpoints"  # in a workdir


def write(folder: Path) -> None:
    """Lists every file in `folder`.

    Raises:
      UserError: if it cannot be written, or there is a link or another thing that is no file.
    """
    lines = []
    for name, path in sorted(_found(folder).items()):
        if odd := _odd(path):
            raise UserError(f"{path} {odd}: remove it")
        lines.append(f"{_digest(path)}  {name}\n")
    write_whole(folder / NAME, "".join(lines))


def exists(folder: Path) -> bool:
    """Whether `folder` was written whole, as far as its manifest says."""
    return (folder / NAME).exists()


def complete(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, ascending."""
    if not folder.exists():
        return []
    names = [path.name for path in folder.iterdir() if path.name.isdigit()]
    return sorted(int(name) for name in names if exists(folder / name))


def damaged(folder: Path, *, below: str = "") -> list[str]:
    """What of `folder` is not what it was when the manifest was written, and what befell each.

    What is there decides which files are read: the manifest may hold any name.

    Args:
      folder: has a manifest.
      below: looks only at files whose path in `folder` starts so; "" = at all of them.
    """
    try:
        if odd := _odd(folder / NAME):
            return [f"{NAME} {odd}"]
        lines = (folder / NAME).read_bytes().decode().removesuffix("\n").split("\n")
        listed = [line.split("  ", 1) for line in lines]
        digests = {name: digest for digest, name in listed}
        found = {n: p for n, p in _found(folder).items() if n in digests or not _left_behind(p)}
    except ValueError:  # no text, or not two columns
        return [f"{NAME} is damaged"]
    except OSError as e:
        return [f"it cannot be read ({e.strerror or e})"]
    names = sorted(name for name in digests | found if name.startswith(below))
    if not names:
        return [f"has no {below}"]
    reasons = ((name, _difference(found.get(name), digests.get(name))) for name in names)
    return [f"{_printable(name)} {reason}" for name, reason in reasons if reason]


def _difference(path: Path | None, digest: str | None) -> str:
    """What befell a file; "" = nothing.

    Args:
      path: None = there is none.
      digest: None = it is not in the manifest.
    """
    if path is None:
        return "is missing"
    try:
        if odd := _odd(path):
            return odd
        if digest is None:
            return "is not in the manifest"
        return "" if _digest(path) == digest else "is not what was written"
    except OSError as e:
        return f"cannot be read ({e.strerror or e})"


def _odd(path: Path) -> str:
    """Why a file is none of those that were written, and may not be opened; "" = it may be."""
    if is_remote(path):  # a bucket has files alone
        return ""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "is a link"
    return "" if stat.S_ISREG(mode) else "is no file"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)  # an error is one line


def _left_behind(path: Path) -> bool:
    """Whether a file manager or a network's file system may have left it: .DS_Store, .nfs0123."""
    return path.name.startswith(".") and not _odd(path)  # orbax has no such names


def _found(folder: Path) -> dict[str, Path]:
    """What is in `folder` but folders and the manifest, by its path there; no link is followed."""
    found, folders = {}, [("", folder)]
    while folders:
        above, place = folders.pop()
        for path in place.iterdir():
            name = above + path.name
            if path.is_dir() and (is_remote(path) or not path.is_symlink()):
                folders.append((name + "/", path))
            elif name not in (NAME, NAME + ".tmp"):
                found[name] = path
    return found
