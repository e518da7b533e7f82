"""Text files: lines of UTF-8, compressed or not."""

import gzip
import zlib
from pathlib import Path

from transformer_jax.errors import UserError, nearest


def siblings(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, which may be gzipped.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return split_lines(content, str(path))
    except FileNotFoundError:
        near = nearest(path.name, siblings(path))
        raise UserError(f"{path} does not exist{near}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory: give a file") from None
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path} cannot be read: {e}") from None


def split_lines(content: bytes, name: str) -> list[str]:
    """The lines of UTF-8 text; `name` is for the error, which says where it is not UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        number = e.object[: e.start].count(b"\n") + 1
        raise UserError(f"{name}, line {number} is not UTF-8: convert it (iconv)") from None
    # str.splitlines would also end a line at U+2028 or a form feed, and shift all that follows.
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]
