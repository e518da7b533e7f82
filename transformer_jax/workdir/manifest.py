"""The SHA-256 of every file of a checkpoint, in a manifest beside them.

Orbax commits a checkpoint whole, but later restores a flipped bit silently. So the manifest is
written after the commit, and compared with the files before orbax reads them; a checkpoint without
a manifest does not count. `sha256sum -c manifest.sha256` reads it too. It detects accidents, not
forgery: whoever can write a checkpoint can write its manifest.
"""

import hashlib
from pathlib import Path

from transformer_jax.storage import write_whole

NAME = "manifest.sha256"
FOLDER = "checkpoints"  # in a workdir


def write(folder: Path) -> None:
    """Lists every file of `folder`.

    Raises:
      UserError: if the manifest cannot be written.
    """
    files = sorted(_files(folder).items())
    write_whole(folder / NAME, "".join(f"{sha256(path)}  {name}\n" for name, path in files))


def exists(folder: Path) -> bool:
    """Whether `folder` has a manifest: it is written last."""
    return (folder / NAME).exists()


def complete(folder: Path) -> list[int]:
    """The steps of the complete checkpoints in `folder`, ascending."""
    if not folder.exists():
        return []
    names = [path.name for path in folder.iterdir() if path.name.isdigit()]
    return sorted(int(name) for name in names if exists(folder / name))


def damaged(folder: Path, *, below: str = "") -> list[str]:
    """The files of `folder` that differ from its manifest, each with what is wrong with it.

    Only files that are found in the folder are opened, whatever names the manifest holds.

    Args:
      folder: has a manifest.
      below: only files whose path in `folder` starts with it are compared; "" = all files.
    """
    try:
        lines = (folder / NAME).read_bytes().decode().removesuffix("\n").split("\n")
        listed = dict(reversed(line.split("  ", 1)) for line in lines)
        found = _files(folder)
    except ValueError:  # not UTF-8, or not two columns
        return [f"{NAME} is damaged"]
    except OSError as e:
        return [f"it cannot be read ({e.strerror or e})"]
    names = sorted(name for name in listed | found if name.startswith(below))
    if not names:
        return [f"has no {below}"]
    problems = ((name, _problem(found.get(name), listed.get(name))) for name in names)
    # An error is one line.
    return [f"{n if n.isprintable() else ascii(n)} {problem}" for n, problem in problems if problem]


def _problem(path: Path | None, digest: str | None) -> str:
    """What is wrong with a file that was found at `path` and listed with `digest`; "" = nothing."""
    if path is None:
        return "is missing"
    try:
        if digest is None:
            return "is not in the manifest"
        return "" if sha256(path) == digest else "has been altered"
    except OSError as e:
        return f"cannot be read ({e.strerror or e})"


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    """All files of `folder` but the manifest, by their path in it.

    `storage.check_workdir` has refused links and pipes. Hidden files are left out: orbax writes
    none, but file managers do (.DS_Store).
    """
    files, folders = {}, [("", folder)]
    while folders:
        above, place = folders.pop()
        for path in place.iterdir():
            name = above + path.name
            if path.is_dir():
                folders.append((name + "/", path))
            elif name not in (NAME, NAME + ".tmp") and not path.name.startswith("."):
                files[name] = path
    return files
