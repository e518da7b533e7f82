"""Embeddings that start from word2vec's or GloVe's vectors, in their text form."""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.errors import UserError, nearest

# What SentencePiece adds to the pieces of a text; GloVe has a word <unk>, and word2vec </s>.
_NO_TEXT = re.compile(r"<pad>|<unk>|</?s>|<0x[0-9A-F]{2}>")


def initialise(
    params: Any, path: Path, tokenizers: Tokenizers, *, stddev: float
) -> tuple[Any, str]:
    """Puts the vectors of a file into every embedding table; a piece it lacks keeps its row.

    A softmax that is tied to the target's table follows; one of its own keeps its initialisation.
    The vectors are multiplied by one number, so that theirs is the standard deviation of the rows
    around them: embeddings are multiplied by √d_model and added to positions of size 1 (section
    3.4), and a tied softmax would start with large logits. Directions and relative lengths stay.

    Args:
      params: a Transformer's.
      path: see `load`.
      tokenizers: the model's.
      stddev: of the tables' initialisation.

    Returns:
      The new params, and how many pieces of each table start from the file, for a person.

    Raises:
      UserError: see `load`; also if no piece is in the file, or all its numbers are the same.
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
    """The vectors of those pieces that are words of a file.

    A piece matches the word that is its text without the ▁ before it, to the letter. So "▁cat" and
    the "cat" inside "wildcat" have one vector: languages without spaces, such as Chinese, have
    words without ▁, and nothing in a piece tells which it is. Bytes (<0x0A>) and special pieces
    match nothing. Of a word that occurs twice, the first vector counts.

    The file is streamed: it may have millions of words. Only the vectors that match are parsed, so
    damage elsewhere goes unnoticed, and a file may be cut short by `head -n`.

    Args:
      path: UTF-8 lines "word number number …", which may be gzipped; a first line "count dimension"
        (word2vec) is skipped. A word may contain spaces (GloVe 840B); such a word matches nothing.
      vocabulary: V pieces.
      dimension: D.

    Returns:
      float32 [V, D], 0 where nothing matches; and bool [V], where something does.

    Raises:
      UserError: if the file cannot be read, has vectors of another dimension, or something else
        than finite numbers after a word.
    """
    ids: dict[str, list[int]] = {}  # of the words that are still to be found
    for number, piece in enumerate(vocabulary):
        if not _NO_TEXT.fullmatch(piece):
            ids.setdefault(piece.removeprefix("▁"), []).append(number)
    ids.pop("", None)
    vectors = np.zeros((len(vocabulary), dimension), np.float32)
    found = np.zeros(len(vocabulary), bool)
    checked = False  # the dimension, once
    for number, line in enumerate(_lines(path), start=1):
        header = number == 1 and re.fullmatch(r"\d+ (\d+)", line)
        if not checked:
            _check_dimension(path, int(header[1]) if header else _count_numbers(line), dimension)
            checked = True
        if header:
            continue
        # Cheap, and true of nearly every line: its word is not wanted.
        if line.partition(" ")[0] not in ids:
            continue
        word, *numbers = line.rsplit(" ", dimension)
        if word not in ids:  # it goes on after a space
            continue
        vector = _parse(numbers, dimension, f"{path}, line {number}")
        rows = ids.pop(word)
        vectors[rows], found[rows] = vector, True
    if not checked:
        raise UserError(f"{path} is empty: give word vectors")
    return vectors, found


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text, one at a time; only a line feed ends one."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(
                        f"{path}, line {number} is not UTF-8: give the text form of word vectors, "
                        "unpacked or as .gz"
                    ) from None
                yield text.rstrip(" \r\n")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path} does not exist{nearest(path.name, siblings)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory: give a file") from None
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path} cannot be read: {e}") from None


def _check_dimension(path: Path, found: int, dimension: int) -> None:
    if found == 0:
        raise UserError(f"{path} begins with something else than a word and its vector")
    if found != dimension:
        raise UserError(
            f"{path} has vectors of {found} numbers, and model.d_model={dimension}: give others, "
            f"or --config.model.d_model={found}"
        )


def _count_numbers(line: str) -> int:
    """How many numbers end a line, after its first word."""
    count = 0
    for field in reversed(line.split(" ")[1:]):
        try:
            float(field)
        except ValueError:
            break
        count += 1
    return count


def _parse(numbers: list[str], dimension: int, place: str) -> np.ndarray:
    """The vector float32 [D] of a line."""
    if len(numbers) != dimension:
        raise UserError(f"{place} has {len(numbers)} numbers, not {dimension}: the file is damaged")
    try:
        vector = np.array([float(number) for number in numbers])
    except ValueError as e:
        raise UserError(f"{place} is damaged: {e}") from None
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise UserError(f"{place} is damaged: it has a number that is nan or too large")
    return vector.astype(np.float32)
