"""Files in a folder of this machine or in a bucket, "gs://bucket/folder".

Both are paths with the methods of `pathlib.Path`; a path in a bucket is an `etils.epath`, though it
is annotated as Path. A bucket differs in three ways: a write is whole or does not happen, nothing
can be appended, and there are no folders to create.
"""

import contextlib
import csv
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from transformer_jax.errors import UserError, one_line

BUCKET = "gs://"


def absolute(name: str, *, folder: str = "") -> str:
    """The path that a user calls `name`: `~` and `~user` are home folders, and "" stays "".

    A relative name starts from `folder`, which may be relative itself.

    Raises:
      UserError: if there is no such user, or if it is a URL that is not of a bucket.
    """
    expanded = os.path.expanduser(name)
    if expanded.startswith("~"):
        raise UserError(f"{name}: there is no user {name[1:].partition('/')[0]!r}: write ./{name}")
    if not name or name.startswith(BUCKET):
        return name
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name):
        raise UserError(f"{name} is neither a path of this machine nor one in a bucket, {BUCKET}…")
    start = absolute(folder) or os.getcwd()
    return os.path.join(start, str(Path(expanded)))


def split_paths(names: str) -> list[str]:
    """The paths in a list with commas; one that has a comma is in double quotes, as in CSV.

    >>> split_paths('a.en, "news, 2020/a.de"')
    ['a.en', 'news, 2020/a.de']

    Raises:
      UserError: if a quotation mark is missing.
    """
    try:
        (found,) = csv.reader([names], strict=True, skipinitialspace=True)
    except csv.Error as e:
        raise UserError(f"{names!r} is not a list of paths with commas between them: {e}") from None
    return [name.strip() for name in found]


def join_paths(names: Iterable[str]) -> str:
    """The inverse of `split_paths`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def path(name: str, *, folder: str = "") -> Path:
    """The path that a user calls `name`, see `absolute`.

    Raises:
      UserError: if it is in a bucket that cannot be reached.
    """
    name = absolute(name, folder=folder)
    if not name.startswith(BUCKET):
        return Path(name)
    # Only buckets need them.
    import fsspec
    from etils import epath

    try:
        fsspec.get_filesystem_class("gs")
    except ImportError as e:
        raise UserError(f"{name} needs gcsfs: pip install 'transformer_jax[gcs]' ({e})") from None
    # A cached listing would hide what other processes write.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    found = epath.Path(name)
    try:
        found.exists()  # without credentials or permission this fails now, not after an hour
    except Exception as e:  # gcsfs, google.auth and aiohttp raise classes with nothing in common
        reason = one_line(e, 200)
        raise UserError(f"{name} cannot be reached: {reason or type(e).__name__}") from None
    return found


def check_workdir(workdir: Path) -> None:
    """Refuses a workdir that holds anything but files and folders.

    Through a link a stranger's workdir could make a run write or remove files elsewhere; opening a
    pipe blocks for ever. The workdir itself may be a link. Buckets have none.

    Raises:
      UserError: if there is one, with its path.
    """
    if is_remote(workdir) or not workdir.is_dir():
        return
    folders = [str(workdir)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                # A running training may remove a file meanwhile; then the path no longer exists.
                elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                    raise UserError(
                        f"{entry.path} is neither a file nor a folder of its own (but a link or a "
                        "pipe), and a run writes only inside its workdir: remove it"
                    )


def make_folder(folder: Path) -> None:
    """Creates a folder and those above it; in a bucket it comes with its first file.

    Raises:
      UserError: if it cannot be created.
    """
    if is_remote(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"cannot write to {folder}: {e.strerror}") from None


def is_remote(path: Path) -> bool:
    """Whether `path` is in a bucket; only `storage.path` makes such paths."""
    return not isinstance(path, Path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a whole file, or nothing if that fails; text in UTF-8.

    Raises:
      UserError: if it cannot be written.
    """
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to be written within the block, at the end of which it takes the place of `path`.

    Raises:
      UserError: if it cannot be written; then `path` is as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        # A file in a bucket is always whole. A pipe, or /dev/null, must not be replaced by a file.
        if is_remote(path) or (path.exists() and not path.is_file()):
            content = io.BytesIO()
            yield content
            path.write_bytes(content.getvalue())
            return
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # a new file: not the target of a link
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        no_bucket = is_remote(path) and isinstance(e, FileNotFoundError)
        reason = "there is no such bucket" if no_bucket else e.strerror or e
        raise UserError(f"cannot write {path}: {reason}") from None
