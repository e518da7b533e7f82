"""Pairs of text as token ids, encoded once and kept in memory-mapped files."""

import dataclasses
import hashlib
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from transformer_jax.config.options import EOS_ID
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.storage import is_remote, write_whole
from transformer_jax.workdir import manifest

_CHUNK = 10_000  # pairs encoded between two calls of `progress`


@dataclasses.dataclass(frozen=True)
class TokenizedPairs:
    """Pairs of sentences as ids: all sentences end to end, and where each one starts.

    Attributes:
      source: int32 [all source tokens], memory-mapped when read from a local cache.
      target: int32 [all target tokens].
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
    pairs: Sequence[tuple[str, str]],
    tokenizers: Tokenizers,
    cache_dir: Path | None = None,
    *,
    name: str | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> TokenizedPairs:
    """Encodes every pair once; both sides end in <eos>.

    Args:
      pairs: (source, target) strings.
      tokenizers: encode them.
      cache_dir: keeps the tokens in a folder named after text and tokenizers; None = in memory.
      name: of that folder; None = their `content_hash`, which costs a pass over the text.
      progress: called with the number of pairs encoded since the last call.
    """
    if cache_dir is None:
        return TokenizedPairs(*_encode(pairs, tokenizers, progress))
    folder = cache_dir / (name or content_hash(pairs, tokenizers))
    cached = read_tokens(folder)
    if cached is None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in zip(_NAMES, _encode(pairs, tokenizers, progress), strict=True):
            content = io.BytesIO()
            np.save(content, array)
            write_whole(folder / f"{name}.npy", content.getvalue())
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


def content_hash(pairs: Sequence[tuple[str, str]], tokenizers: Tokenizers) -> str:
    """Identifies what training reads: 16 hexadecimal digits of SHA-256 over tokenizers and text."""
    digest = hashlib.sha256()
    for tokenizer in tokenizers:
        digest.update(tokenizer.model)
    for source, target in pairs:
        digest.update(f"{source}\t{target}\n".encode())
    return digest.hexdigest()[:16]


def _encode(
    pairs: Sequence[tuple[str, str]], tokenizers: Tokenizers, progress: Callable[[int], None]
) -> tuple[np.ndarray, ...]:
    flat: tuple[list, list] = [], []
    lengths: tuple[list, list] = [], []
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        for side, tokenizer in enumerate(tokenizers):
            sentences = [[*ids, EOS_ID] for ids in tokenizer.encode([p[side] for p in chunk])]
            lengths[side].extend(map(len, sentences))
            flat[side].append(np.fromiter(itertools.chain.from_iterable(sentences), np.int32))
        progress(len(chunk))
    tokens = [np.concatenate([*side, np.zeros(0, np.int32)]) for side in flat]
    offsets = [np.concatenate([[0], np.cumsum(side)]).astype(np.int64) for side in lengths]
    return *tokens, *offsets
