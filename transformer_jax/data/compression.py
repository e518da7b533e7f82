"""Compressed text: known by its first bytes where it is read, by its file's name where written."""

import bz2
import functools
import gzip
import io
import lzma
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from transformer_jax.errors import UserError

_MAGIC = {
    "gz": rb"\x1f\x8b",
    "bz2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
    "xz": rb"\xfd7zXZ\0|\x5d\0\0",  # and its older form, .lzma
    "zst": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
    "zip": rb"PK[\3\5][\4\6]",
    "tar": rb"(?s:.{257})ustar",
}
_OPEN: dict[str, Callable[[Any], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
# What one is asked to do with it; the others are read.
_ARCHIVES = {"zip": "unzip", "tar": "untar"}
_NOT_WRITTEN = (".zip", ".tar", ".tgz", ".7z", ".lz4", ".lzma", ".z")
_HEAD = 512  # bytes that show what a file is
_CHUNK = 1 << 16  # compressed bytes that are read at once


def decompressed(file: BinaryIO, name: str) -> BinaryIO:
    """The content of a file that may be compressed; errors call it `name`.

    Raises:
      UserError: if it is an archive, or is compressed by zstd and no package reads that.
    """
    buffered: Any = io.BufferedReader(file)  # type: ignore[arg-type]
    while kind := _kind(buffered.peek(_HEAD)):
        if kind in _ARCHIVES:
            raise UserError(f"{name} is an archive ({kind}), not a text: {_ARCHIVES[kind]} it")
        buffered = _open_zstd(buffered, name) if kind == "zst" else _OPEN[kind](buffered)
    return buffered


def compressor(name: str) -> Callable[[bytes], bytes]:
    """What compresses the content of a file of that name; streams end to end are one stream.

    Raises:
      UserError: if the name ends in .zst and no package writes that, or in .zip or the like.
    """
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _NOT_WRITTEN:
        raise UserError(f"{name}: {suffix} is not written; choose .gz, .bz2, .xz or .zst")
    if suffix == ".zst":
        return _zstd(name).compress
    known = {".gz": functools.partial(gzip.compress, mtime=0), ".bz2": bz2.compress}
    return (known | {".xz": lzma.compress}).get(suffix, bytes)


def _kind(head: bytes) -> str:
    return next((kind for kind, magic in _MAGIC.items() if re.match(magic, head)), "")


def _zstd(name: str) -> Any:
    """The module that knows zstd: Python's own from 3.14 on, or the package zstandard."""
    try:
        import compression.zstd as module
    except ImportError:
        try:
            import zstandard as module
        except ImportError:
            raise UserError(f"{name} is zstd, which needs: pip install zstandard") from None
    return module


def _open_zstd(file: BinaryIO, name: str) -> BinaryIO:
    return io.BufferedReader(_Chunks(_zstd_chunks(file, _zstd(name))))


def _zstd_chunks(file: BinaryIO, module: Any) -> Iterator[bytes]:
    """The content in pieces; zstandard's own reader takes a file that was cut short for whole."""
    content = file.read(_CHUNK)
    while content:  # a file may be several streams, end to end
        stream = module.ZstdDecompressor()
        stream = stream.decompressobj() if hasattr(stream, "decompressobj") else stream
        while not stream.eof:
            if not content:
                raise EOFError("it ends before its end-of-stream marker")
            try:
                yield stream.decompress(content)
            except module.ZstdError as e:
                raise OSError(str(e)) from None
            content = stream.unused_data if stream.eof else file.read(_CHUNK)
        content = content or file.read(_CHUNK)


class _Chunks(io.RawIOBase):
    """A file whose content comes in pieces."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count
