"""Embeddings that start from the vectors of word2vec or GloVe, in text form."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.data.compression import decompressed
from transformer_jax.data.text import readable
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.errors import UserError

# Pieces that stand for no text; GloVe has a word <unk>, and word2vec </s>.
_NO_TEXT = re.compile(r"<pad>|<unk>|</?s>|<0x[0-9A-F]{2}>")


def initialise(
    params: Any, path: Path, tokenizers: Tokenizers, *, stddev: float
) -> tuple[Any, str]:
    """Puts the vectors of a file into every embedding table; a piece that it lacks keeps its row.

    A softmax that is tied to the target's table follows it; an untied one keeps its initialisation.
    One factor gives the vectors the standard deviation of the other rows. Otherwise, positions of
    size 1 would be added to embeddings of another size (section 3.4), and a tied softmax would
    start with large logits. Directions and relative lengths stay.

    Args:
      params: a Transformer's.
      path: see `load`.
      tokenizers: the model's.
      stddev: the standard deviation with which the tables were initialised.

    Returns:
      The new params, and a line for a person: how many pieces of each table start from the file.

    Raises:
      UserError: as `load`; also if the file has no piece, or the same number everywhere.
    """
    tables = {"embedding": tokenizers.target.vocabulary}
    if "embedding" not in params:
        tables = {
            "source_embedding": tokenizers.source.vocabulary,
            "target_embedding": tokenizers.target.vocabulary,
        }
    pieces = [piece for vocabulary in tables.values() for piece in vocabulary]
    dimension = params[next(iter(tables))].shape[1]
    vectors, found = load(path, pieces, dimension=dimension)
    if not found.any():
        raise UserError(
            f"{path} has none of the {len(pieces):,} pieces of the vocabulary: are its words of "
            "another language, or another case?"
        )
    spread = vectors[found].std(dtype=np.float64)
    if not spread > 0:
        raise UserError(f"{path} has the same number everywhere: give trained word vectors")
    vectors = (vectors * (stddev / spread)).astype(np.float32)
    new, counts, start = dict(params), [], 0
    for name, vocabulary in tables.items():
        rows = slice(start, start + len(vocabulary))
        new[name] = np.where(found[rows, None], vectors[rows], params[name])
        side = name.removesuffix("embedding").replace("_", " ")
        counts.append(f"{found[rows].sum():,} of {len(vocabulary):,} {side}pieces")
        start = rows.stop
    return new, f"{' and '.join(counts)} start from {path}"


def load(path: Path, vocabulary: Sequence[str], *, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the vectors of those pieces that are words of a file.

    A piece matches the word that equals its text without a leading ▁. So "▁cat" and the "cat"
    inside "wildcat" get the same vector: languages without spaces, such as Chinese, have words
    without ▁, and a piece does not show which case it is. Bytes (<0x0A>) and special pieces match
    nothing. If a word occurs twice, its first vector counts.

    The file is streamed, because it may have millions of words. Only the vectors that match are
    parsed: damage elsewhere goes unnoticed, and `head -n` may shorten a file.

    Args:
      path: UTF-8 lines "word number number …", which may be compressed; a first line "count
        dimension" (word2vec) is skipped. A word may contain spaces (GloVe 840B); such a word
        matches nothing.
      vocabulary: V pieces.
      dimension: D.

    Returns:
      float32 [V, D], 0 where nothing matches; bool [V], whether something matches.

    Raises:
      UserError: if the file cannot be read, its vectors have another dimension, or a word is not
        followed by finite numbers.
    """
    ids: dict[str, list[int]] = {}  # the pieces of each word that is not found yet
    for number, piece in enumerate(vocabulary):
        if not _NO_TEXT.fullmatch(piece):
            ids.setdefault(piece.removeprefix("▁"), []).append(number)
    ids.pop("", None)
    vectors = np.zeros((len(vocabulary), dimension), np.float32)
    found = np.zeros(len(vocabulary), bool)
    checked = False  # the dimension
    for number, line in enumerate(_lines(path), start=1):
        header = number == 1 and re.fullmatch(r"\d+ (\d+)", line)
        if not checked:
            _check_dimension(path, int(header[1]) if header else _count_numbers(line), dimension)
            checked = True
        if header:
            continue
        if line.partition(" ")[0] not in ids:  # cheap, and so for nearly every line
            continue
        word, *numbers = line.rsplit(" ", dimension)
        if word not in ids:  # the word continues after the space
            continue
        vector = _parse(numbers, dimension, f"{path}, line {number}")
        rows = ids.pop(word)
        vectors[rows], found[rows] = vector, True
    if not checked:
        raise UserError(f"{path} is empty: give word vectors")
    return vectors, found


def _lines(path: Path) -> Iterator[str]:
    """Yields the lines of a text; only a line feed ends a line."""
    with readable(path), path.open("rb") as file:
        for number, line in enumerate(decompressed(file, str(path)), start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UserError(
                    f"{path}, line {number} is not UTF-8: give word vectors in text form, "
                    "compressed or not"
                ) from None
            yield text.rstrip(" \r\n")


def _check_dimension(path: Path, found: int, dimension: int) -> None:
    if found == 0:
        raise UserError(f"{path} does not begin with a word and its vector")
    if found != dimension:
        raise UserError(
            f"{path} has vectors of {found} numbers, and model.d_model={dimension}: give another "
            f"file, or --config.model.d_model={found}"
        )


def _count_numbers(line: str) -> int:
    """Counts the numbers at the end of a line, after its first word."""
    count = 0
    for field in reversed(line.split(" ")[1:]):
        try:
            float(field)
        except ValueError:
            break
        count += 1
    return count


def _parse(numbers: list[str], dimension: int, place: str) -> np.ndarray:
    """Parses the vector of a line, float32 [D]."""
    if len(numbers) != dimension:
        raise UserError(f"{place} has {len(numbers)} numbers, not {dimension}: the file is damaged")
    try:
        vector = np.array([float(number) for number in numbers])
    except ValueError as e:
        raise UserError(f"{place} is damaged: {e}") from None
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise UserError(f"{place} is damaged: it has a number that is nan or too large")
    return vector.astype(np.float32)
