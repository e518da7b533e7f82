"""Batches of a few fixed shapes: translating and scoring compile a closed set of programs."""

import bisect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from transformer_jax.config.options import PAD_ID, ModelConfig
from transformer_jax.errors import UserError

# Lengths that programs are compiled for. A longer sentence is not translated.
SOURCE_LENGTHS = (16, 32, 64, 128, 256, 512, 1024)


def source_lengths(models: Sequence[ModelConfig], extra_length: int) -> tuple[int, ...]:
    """The lengths of `SOURCE_LENGTHS` for which the models have positions, ascending.

    Args:
      models: their architectures; sinusoidal positions never end.
      extra_length: how much longer than the source a target may be.

    Raises:
      UserError: if learned positions do not suffice for one source token and `extra_length`.
    """
    learned = [model.max_positions for model in models if model.positions == "learned"]
    if not learned:
        return SOURCE_LENGTHS
    limit = min(learned) - extra_length
    if limit < 1:
        raise UserError(
            f"decode.extra_length={extra_length} leaves no source token of "
            f"model.max_positions={min(learned)}: lower it"
        )
    shorter = tuple(s for s in SOURCE_LENGTHS if s < limit)
    return shorter if shorter == SOURCE_LENGTHS else (*shorter, limit)


def by_length(
    sizes: Mapping[int, int], lengths: Sequence[int], most_rows: Callable[[int], int]
) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Yields (shape, numbers): a batch's rows and length, and the items in it, shortest first.

    The rows of a length are a power of two, just enough for its items, or the most: so two items
    cost little more than one, and the number of shapes stays small.

    >>> list(by_length({0: 3, 1: 9, 2: 1, 3: 4, 4: 2}, [4, 16], lambda length: 3))
    [((3, 4), [2, 4, 0]), ((3, 4), [3]), ((1, 16), [1])]

    Args:
      sizes: the size of each item, by its number; none is larger than the last length.
      lengths: ascending.
      most_rows: the most rows of a batch of that length.
    """
    # By size within a length too: a batch is searched until its longest translation ends.
    ordered = sorted(sizes, key=lambda number: sizes[number])
    for length, members in itertools.groupby(ordered, key=lambda n: bucket(sizes[n], lengths)):
        numbers = list(members)
        rows = min(1 << (len(numbers) - 1).bit_length(), most_rows(length))
        for start in range(0, len(numbers), rows):
            yield (rows, length), numbers[start : start + rows]


def bucket(size: int, lengths: Sequence[int]) -> int:
    """The shortest of ascending `lengths` that holds `size` tokens."""
    return lengths[bisect.bisect_left(lengths, size)]


def padded(rows: Sequence[Sequence[int]], shape: tuple[int, int]) -> np.ndarray:
    """int32 of that shape, with each row's tokens at its start and padding elsewhere."""
    tokens = np.full(shape, PAD_ID, np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens
