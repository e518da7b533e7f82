"""Text files: lines of UTF-8, compressed or not."""

import contextlib
import functools
import lzma
import re
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from transformer_jax.data.compression import decompressed
from transformer_jax.errors import UserError, nearest

# Invisible, though Unicode does not file them under Z, Cc or Cf: the grapheme joiner, fillers of
# Hangul and Khmer, Mongolian and other variation selectors, an empty Braille cell. "▁" is
# SentencePiece's sign for a space.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef▁]"
)


def is_blank(text: str) -> bool:
    """Whether nothing of `text` is visible: it is empty, or all spaces, controls and the like.

    >>> [is_blank(text) for text in ("", " \\u3000", "\\ufeff", "\\u200b\\xad", "a\\u200b")]
    [True, True, True, True, False]
    """
    return all(map(_is_invisible, text))


@functools.cache
def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "Z" or category in ("Cc", "Cf") or bool(_INVISIBLE.match(character))


@contextlib.contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Within the block, a failure to read `path` is a UserError that names it."""
    try:
        yield
    except FileNotFoundError:
        near = "" if isinstance(path, str) else nearest_sibling(path)
        raise UserError(f"{path} does not exist{near}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory: give a file") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as e:
        raise UserError(f"{path} cannot be read: {e}") from None


def nearest_sibling(path: Path) -> str:
    """ " (did you mean …?)", or "": the file beside `path` whose name is nearest."""
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return nearest(path.name, names)


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a UTF-8 file, which may be compressed.

    Raises:
      UserError: if the file cannot be read, or is not UTF-8.
    """
    return list(stream_lines(path))


def stream_lines(path: Path) -> Iterator[str]:
    """As `read_lines`, without keeping them."""
    with readable(path), path.open("rb") as file:
        yield from lines_as_they_come(file, str(path))


def lines_of(file: BinaryIO, name: str) -> list[str]:
    """As `read_lines`, of an open file, which errors call `name`."""
    return list(lines_as_they_come(file, name))


def lines_as_they_come(file: BinaryIO, name: str) -> Iterator[str]:
    """Yields each line; of an unbuffered file, such as a pipe that stays open, once it is there."""
    number = returns = 0
    with readable(name):
        # str.splitlines would also end a line at U+2028 or a form feed, and shift all later lines.
        for number, line in enumerate(decompressed(file, name), start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                where = f"{name}, line {number}"
                raise UserError(f"{where} is not UTF-8: convert it (iconv)") from None
            returns += text.count("\r") - text.endswith("\r\n")
            yield text.removesuffix("\n").removesuffix("\r")
    if returns > number:
        lines = "one line" if number == 1 else f"{number:,} lines"
        raise UserError(
            f"{name} is {lines} with {returns:,} carriage returns, which end no line here: "
            "convert it (tr '\\r' '\\n')"
        )
