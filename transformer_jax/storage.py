"""Where files are: in a folder of this machine, or in a bucket, "gs://bucket/folder".

Both are paths with the same methods: `pathlib`'s, or those of `etils.epath`, which stands behind
the same annotation. A bucket differs in three ways: a write is whole or nothing, nothing can be
appended, and there are no folders to make.
"""

import os
from pathlib import Path

from transformer_jax.errors import UserError

BUCKET = "gs://"


def path(name: str, *, folder: str = "") -> Path:
    """The path `name`, which starts from `folder` if it is relative.

    Raises:
      UserError: if it is in a bucket, and that cannot be reached.
    """
    name = name if name.startswith(BUCKET) else os.path.join(folder, name)
    if not name.startswith(BUCKET):
        return Path(name)
    # Imported here: only buckets need them.
    import fsspec
    from etils import epath

    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as e:
        raise UserError(f"{name} needs gcsfs: pip install gcsfs ({e})") from None
    # Or a folder once listed would stay as it was: what other processes write would not be seen.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    found = epath.Path(name)
    try:
        found.exists()  # without credentials or permission this fails now, and not after an hour
    except Exception as e:  # gcsfs's, google.auth's, aiohttp's: they have no class in common
        reason = " ".join(str(e).split())[:200]
        raise UserError(f"{name} cannot be reached: {reason or type(e).__name__}") from None
    return found


def check_workdir(workdir: Path) -> None:
    """Refuses a workdir that holds anything but files and folders.

    Through a link a stranger's workdir would have us write, or remove, what lies elsewhere; opening
    a pipe waits for ever. The workdir itself may be a link, and buckets have none.

    Raises:
      UserError: naming the first one.
    """
    if is_remote(workdir) or not workdir.is_dir():
        return
    folders = [str(workdir)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                # A run that is on may remove a file meanwhile: then it is none of these either.
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    raise UserError(
                        f"{entry.path} is neither a file nor a folder of its own (a link, a pipe), "
                        "and a run writes in its workdir alone: remove it"
                    )


def make_folder(folder: Path) -> None:
    """Makes a folder to write to, with those above it; in a bucket it comes with its first file.

    Raises:
      UserError: if it cannot be made.
    """
    if is_remote(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write to {folder}: {e.strerror}") from None


def is_remote(path: Path) -> bool:
    """Whether `path` is in a bucket: see `storage.path`, which alone makes such paths."""
    return not isinstance(path, Path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all; text in UTF-8.

    Raises:
      UserError: if it cannot be written.
    """
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + ".tmp")
    try:
        # In a bucket a file is whole whenever it is there. A pipe, or /dev/null, is not to be
        # replaced by a file.
        if is_remote(path) or (path.exists() and not path.is_file()):
            path.write_bytes(content)
            return
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # a new one: not what a link there leads to
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        no_bucket = is_remote(path) and isinstance(e, FileNotFoundError)
        reason = "there is no such bucket" if no_bucket else e.strerror or e
        raise UserError(f"cannot write {path}: {reason}") from None
