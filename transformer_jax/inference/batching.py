"""Batches of a few fixed shapes: translating and scoring compile a closed set of programs."""

import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from transformer_jax.config.options import PAD_ID, ModelConfig
from transformer_jax.errors import UserError

# Lengths that programs are compiled for. A longer sentence is not translated.
SOURCE_LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
# What a batch costs however few rows it has, in rows. A greedy search of a small model on a CPU
# takes the time of 4 more than it has; a larger number keeps the shapes of one call few.
_START = 8


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

    The rows are a power of two or the most, so that the number of shapes stays small. Of all ways
    to cut the items, in order of size, into batches, the cheapest is taken: a batch costs its
    largest size times its rows and `_START` more. So 33 items are a batch of 32 and one of 1, and a
    row that a length has no item for takes a shorter one; only the shortest batch is padded.

    >>> list(by_length({0: 3, 1: 9, 2: 1, 3: 4, 4: 2}, [4, 16], lambda length: 3))
    [((2, 4), [2, 4]), ((3, 16), [0, 3, 1])]

    Args:
      sizes: the size of each item, by its number; none is larger than the last length.
      lengths: ascending.
      most_rows: the most rows of a batch of that length.
    """
    ordered = sorted(sizes, key=lambda number: sizes[number])
    # For the first 0, 1, 2, … items: the least cost, and the rows of the last of their batches.
    cheapest = [(0, 0)]
    for end, number in enumerate(ordered, start=1):
        size, most = sizes[number], most_rows(bucket(sizes[number], lengths))
        choices = [most, *(1 << n for n in range(most.bit_length()) if 1 << n < most)]
        costs = ((cheapest[max(end - n, 0)][0] + size * (n + _START), n) for n in choices)
        cheapest.append(min(costs))
    batches, end = [], len(ordered)
    while end > 0:
        rows = cheapest[end][1]
        length = bucket(sizes[ordered[end - 1]], lengths)
        batches.append(((rows, length), ordered[max(end - rows, 0) : end]))
        end -= rows
    yield from reversed(batches)


def bucket(size: int, lengths: Sequence[int]) -> int:
    """The shortest of ascending `lengths` that holds `size` tokens."""
    return lengths[bisect.bisect_left(lengths, size)]


def padded(rows: Sequence[Sequence[int]], shape: tuple[int, int]) -> np.ndarray:
    """int32 of that shape, with each row's tokens at its start and padding elsewhere."""
    tokens = np.full(shape, PAD_ID, np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens
