"""Where files are: in a folder of this machine, or in a bucket, "gs://bucket/folder".

Both are paths with the same methods: `pathlib`'s, or those of `etils.epath`, which stands behind
the same annotation. A bucket differs in three ways: a write is whole or nothing, nothing can be
appended, and there are no folders to make.
"""

import os
from pathlib import Path

from transformer_jax.config import UserError, is_remote

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
