"""Pairs of text as token ids, encoded once and kept in memory-mapped files."""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import mmap
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from transformer_jax.config.options import EOS_ID
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers
from transformer_jax.storage import is_remote, whole_file
from transformer_jax.workdir import manifest

_CHUNK = 10_000  # pairs encoded between two calls of `progress`
_AHEAD = 2  # chunks encoded while one is written


@dataclasses.dataclass(frozen=True)
class TokenizedPairs:
    """Pairs of sentences as ids: all sentences end to end, and where each one starts.

    Attributes:
      source: [all source tokens], memory-mapped when read from a local cache; uint16, or int32 if
        there are more pieces than that holds.
      target: [all target tokens].
      source_offsets: int64 [pairs + 1]; sentence i is source[source_offsets[i]:offsets[i + 1]].
      target_offsets: int64 [pairs + 1].
    """

    source: np.ndarray
    target: np.ndarray
    source_offsets: np.ndarray
    target_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.source_offsets) - 1

    @property
    def source_lengths(self) -> np.ndarray:
        """The tokens of each source, <eos> included, int64 [pairs]."""
        return np.diff(self.source_offsets)

    @property
    def target_lengths(self) -> np.ndarray:
        """The tokens of each target, <eos> included, int64 [pairs]."""
        return np.diff(self.target_offsets)

    def release(self) -> None:
        """Unmaps what was read of memory-mapped files, which stays in the system's page cache."""
        for array in (self.source, self.target, self.source_offsets, self.target_offsets):
            if isinstance(array, np.memmap):
                array.base.madvise(mmap.MADV_DONTNEED)


def take(
    tokens: np.ndarray, offsets: np.ndarray, sentences: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of some sentences end to end, and their offsets.

    >>> take(np.array([5, 6, 7, 8, 9]), np.array([0, 2, 3, 5]), np.array([2, 0]))
    (array([8, 9, 5, 6]), array([0, 2, 4]))
    """
    lengths = offsets[sentences + 1] - offsets[sentences]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    place = np.repeat(offsets[sentences] - ends[:-1], lengths) + np.arange(ends[-1])
    return tokens[place], ends


_NAMES = [f.name for f in dataclasses.fields(TokenizedPairs)]


def tokenize_pairs(
    pairs: Iterable[tuple[str, str]],
    tokenizers: Tokenizers,
    cache_dir: Path | None = None,
    *,
    name: str | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> TokenizedPairs:
    """Encodes every pair once; both sides end in <eos>.

    Args:
      pairs: (source, target) strings; an iterator will do where `name` is given.
      tokenizers: encode them.
      cache_dir: keeps the tokens in a folder named after text and tokenizers; None = in memory.
      name: of that folder; None = their `content_hash`, which costs a pass over the text.
      progress: called with the number of pairs encoded since the last call.
    """
    if cache_dir is None:
        files = [io.BytesIO() for _ in _NAMES]
        _encode(pairs, tokenizers, files, progress)
        for file in files:
            file.seek(0)
        return TokenizedPairs(*map(np.load, files))
    folder = cache_dir / (name or content_hash(pairs, tokenizers))
    cached = read_tokens(folder)
    if cached is None:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            paths = [folder / f"{name}.npy" for name in _NAMES]
            files = [stack.enter_context(whole_file(path)) for path in paths]
            _encode(pairs, tokenizers, files, progress)
        manifest.write(folder)
        cached = read_tokens(folder)
    return cached


def read_tokens(folder: Path) -> TokenizedPairs | None:
    """Reads the tokens in a folder of the cache; None if a file is missing or damaged."""
    files = [folder / f"{name}.npy" for name in _NAMES]
    if not manifest.exists(folder) or manifest.damaged(folder):
        return None
    try:
        if is_remote(folder):
            return TokenizedPairs(*(np.load(io.BytesIO(file.read_bytes())) for file in files))
        return TokenizedPairs(*(np.load(file, mmap_mode="r") for file in files))
    except (OSError, EOFError, ValueError):
        return None


def content_hash(pairs: Iterable[tuple[str, str]], tokenizers: Tokenizers) -> str:
    """Identifies what training reads: 16 hexadecimal digits of SHA-256 over tokenizers and text."""
    digest = hashlib.sha256()
    for tokenizer in tokenizers:
        digest.update(tokenizer.model)
    for source, target in pairs:
        digest.update(f"{source}\t{target}\n".encode())
    return digest.hexdigest()[:16]


def _encode(
    pairs: Iterable[tuple[str, str]],
    tokenizers: Tokenizers,
    files: Sequence[BinaryIO],
    progress: Callable[[int], None],
) -> None:
    """Writes the arrays of `TokenizedPairs` chunk by chunk, each as a .npy file."""
    small = all(tokenizer.vocab_size <= np.iinfo(np.uint16).max + 1 for tokenizer in tokenizers)
    token = np.dtype(np.uint16 if small else np.int32)
    dtypes, sizes = [token, token, np.dtype(np.int64), np.dtype(np.int64)], [0, 0, 1, 1]
    for file, dtype, size in zip(files, dtypes, sizes, strict=True):
        _write_header(file, dtype, 0)
        file.write(np.zeros(size, dtype).tobytes())
    for chunk in _encoded_chunks(pairs, tokenizers):
        for side, (tokens, lengths) in enumerate(chunk):
            arrays = tokens, sizes[side] + np.cumsum(lengths)
            for column, array in zip((side, side + 2), arrays, strict=True):
                files[column].write(array.astype(dtypes[column]).tobytes())
                sizes[column] += len(array)
        progress(len(lengths))
    for file, dtype, size in zip(files, dtypes, sizes, strict=True):
        file.seek(0)  # numpy leaves room for the size in its header
        _write_header(file, dtype, size)


def _write_header(file: BinaryIO, dtype: np.dtype, size: int) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(file, header)


def _encoded_chunks(
    pairs: Iterable[tuple[str, str]], tokenizers: Tokenizers
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """The tokens and the lengths of each side of each chunk.

    SentencePiece encodes a chunk on all cores; two threads prepare and collect the next ones.
    """
    rest, waiting = iter(pairs), deque()
    with ThreadPoolExecutor(_AHEAD) as pool:
        while chunk := list(itertools.islice(rest, _CHUNK)):
            sides = zip(tokenizers, zip(*chunk, strict=True), strict=True)
            waiting.append([pool.submit(_encode_side, *side) for side in sides])
            if len(waiting) > _AHEAD:
                yield [side.result() for side in waiting.popleft()]
        for chunk in waiting:
            yield [side.result() for side in chunk]


def _encode_side(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of `texts` end to end, each text's with its <eos>, and their lengths."""
    rows = tokenizer.encode(texts)
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    tokens = np.fromiter(itertools.chain.from_iterable(rows), np.int32, lengths.sum())
    return np.insert(tokens, np.cumsum(lengths), EOS_ID), lengths + 1
