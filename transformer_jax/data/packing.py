"""Packing: several pairs share a row of fixed shape. The lengths alone decide which."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from transformer_jax.config.options import BOS_ID, PAD_ID
from transformer_jax.data.tokens import TokenizedPairs

Batch = dict[str, np.ndarray]


# Slots that are dealt at a time, which bounds memory; the result is the same for any number.
_DEALT = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(Sequence[np.ndarray]):
    """The numbers of the pairs of each row, end to end: `rows[i]` is an array of pair numbers.

    Attributes:
      pairs: int32 [pairs].
      starts: int64 [rows + 1], where each row starts, and the end of the last.
    """

    pairs: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.pairs[self.starts[row] : self.starts[row + 1]]

    def cycled(self, count: int) -> "Rows":
        """The first `count` rows, after the last of which the first one comes again."""
        times = -(-count // len(self))
        sizes = np.tile(np.diff(self.starts), times)[:count]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        return Rows(np.tile(self.pairs, times)[: starts[-1]], starts)


@dataclasses.dataclass(frozen=True)
class PackingPlan:
    """Which (source, target) lengths share a row: made once, and filled with pairs by each epoch.

    Packing depends on lengths alone, so two pairs of the same lengths can change places. The plan
    is therefore a list of slots for lengths; each epoch deals the pairs to slots of their lengths,
    and shuffles the rows. So every epoch has the same number of rows, and the epoch of a step is
    one division. It takes 9 bytes a pair.

    Attributes:
      source_row_length: S, tokens of source in one row.
      target_row_length: T, tokens of target in one row.
      row_sizes: int32 [rows], the slots of each row.
      slot_row: int32 [slots], the row of each slot. Slots are in the order of their lengths.
      slot_rank: uint8 or wider [slots], the place of each slot in its row.
      pairs: int32 [slots], the pairs, in the order of their lengths.
      alike: int64 [different lengths], how many pairs have the same lengths.
      too_long: the number of pairs left out because they are longer than a row.
    """

    source_row_length: int
    target_row_length: int
    row_sizes: np.ndarray
    slot_row: np.ndarray
    slot_rank: np.ndarray
    pairs: np.ndarray
    alike: np.ndarray
    too_long: int

    @property
    def rows(self) -> int:
        """The number of rows in an epoch."""
        return len(self.row_sizes)

    def epoch(self, seed: int, epoch: int) -> Rows:
        """The pairs of each row in one epoch."""
        rng = np.random.default_rng([seed, epoch])
        dealt, ends = np.empty_like(self.pairs), np.cumsum(self.alike)
        cuts = ends[np.searchsorted(ends, np.arange(_DEALT, len(dealt), _DEALT))]
        for start, end in itertools.pairwise(np.unique([0, *cuts, len(dealt)]).tolist()):
            lengths = np.searchsorted(ends, np.arange(start, end), side="right")
            order = np.lexsort((rng.random(end - start), lengths))
            dealt[start:end] = self.pairs[start:end][order]
        row = rng.permutation(self.rows)
        starts = np.zeros(self.rows + 1, np.int64)
        starts[row + 1] = self.row_sizes
        np.cumsum(starts, out=starts)
        first, pairs = starts[row], np.empty_like(dealt)
        for start in range(0, len(dealt), _DEALT):
            part = slice(start, start + _DEALT)
            pairs[first[self.slot_row[part]] + self.slot_rank[part]] = dealt[part]
        return Rows(pairs, starts)


def fit_a_row(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    *,
    source_row_length: int,
    target_row_length: int,
) -> np.ndarray:
    """Whether each pair is no longer than a row; bool [pairs]."""
    return (source_lengths <= source_row_length) & (target_lengths <= target_row_length)


def plan_packing(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    *,
    source_row_length: int,
    target_row_length: int,
) -> PackingPlan:
    """Packs pairs into rows greedily.

    A row takes the largest pair that fits and keeps its two sides in balance, until none fits.
    The same choices recur until some length runs out, so one filling is repeated as often as the
    lengths allow: 450,000 pairs need only a few thousand fillings.

    >>> plan = plan_packing(
    ...     np.array([3, 2, 1, 9]), np.array([2, 2, 2, 1]), source_row_length=4, target_row_length=4
    ... )
    >>> plan.rows, plan.too_long
    (2, 1)
    >>> sorted(sorted(row.tolist()) for row in plan.epoch(seed=0, epoch=0))
    [[0], [1, 2]]

    Args:
      source_lengths: int [pairs].
      target_lengths: int [pairs].
      source_row_length: S, tokens of source in one row.
      target_row_length: T, tokens of target in one row.
    """
    lengths = {"source_row_length": source_row_length, "target_row_length": target_row_length}
    fits = fit_a_row(source_lengths, target_lengths, **lengths)
    shape = source_row_length + 1, target_row_length + 1
    ids = np.ravel_multi_index((source_lengths[fits], target_lengths[fits]), shape)
    counts = np.bincount(ids, minlength=math.prod(shape))
    # Numbers of 16 bits, as those of the different lengths are, are sorted in linear time.
    number = np.cumsum(counts > 0) - 1
    order = np.argsort(number.astype(np.min_scalar_type(number[-1]))[ids], kind="stable")
    slot_row, slot_rank, row_sizes = _fill_rows(counts.reshape(shape))
    return PackingPlan(
        source_row_length=source_row_length,
        target_row_length=target_row_length,
        row_sizes=row_sizes,
        slot_row=slot_row,
        slot_rank=slot_rank,
        pairs=np.flatnonzero(fits).astype(np.int32)[order],
        alike=counts[counts > 0],
        too_long=int(len(fits) - len(ids)),
    )


def _fill_rows(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slots (row, rank) that use up counts[source length, target length]; the slots of each row."""
    slots, rows, sizes = counts.sum(), 0, [np.zeros(0, np.int32)]
    slot_row = np.zeros(slots, np.int32)
    slot_rank = np.zeros(slots, np.min_scalar_type(max(counts.shape)))
    upcoming = (np.cumsum(counts) - counts.ravel()).reshape(counts.shape)  # slot of each lengths
    left, (source, target) = counts.copy(), np.nonzero(counts)
    while len(source):
        filling = fill_row(left, source, target)
        ranks: dict[tuple[int, int], list[int]] = {}
        for rank, lengths in enumerate(filling):
            ranks.setdefault(lengths, []).append(rank)
        repeats = int(min(left[lengths] // len(own) for lengths, own in ranks.items()))
        for lengths, own in ranks.items():
            used = repeats * len(own)
            slot = slice(upcoming[lengths], upcoming[lengths] + used)
            slot_row[slot] = np.repeat(np.arange(rows, rows + repeats), len(own))
            slot_rank[slot] = np.tile(own, repeats)
            upcoming[lengths] += used
            left[lengths] -= used
        sizes.append(np.full(repeats, len(filling), np.int32))
        rows += repeats
        if any(not left[lengths] for lengths in ranks):
            some = left[source, target] > 0
            source, target = source[some], target[some]
    return slot_row, slot_rank, np.concatenate(sizes)


def fill_row(left: np.ndarray, source: np.ndarray, target: np.ndarray) -> list[tuple[int, int]]:
    """The lengths (source[i], target[i]) that one row takes of those that are left."""
    source_row, target_row = left.shape[0] - 1, left.shape[1] - 1
    source_free, target_free = source_row, target_row
    counts = left[source, target]
    filling: list[tuple[int, int]] = []
    while len(source):
        # A large pair that leaves both sides equally full: a row whose source is full wastes the
        # rest of its target. (Without that term 5 % of positions are padding, with it 2 %.)
        imbalance = (source_free - source) / source_row - (target_free - target) / target_row
        best = np.argmax(source / source_row + target / target_row - np.abs(imbalance))
        lengths = int(source[best]), int(target[best])
        filling.append(lengths)
        counts[best] -= 1
        source_free, target_free = source_free - lengths[0], target_free - lengths[1]
        fits = (source <= source_free) & (target <= target_free) & (counts > 0)
        source, target, counts = source[fits], target[fits], counts[fits]
    return filling


def pack(
    pairs: TokenizedPairs,
    row_pairs: Sequence[np.ndarray],
    *,
    source_row_length: int,
    target_row_length: int,
) -> Batch:
    """Lays pairs out in rows.

    >>> pairs = TokenizedPairs(
    ...     source=np.array([7, 8, 3, 9, 3]),
    ...     target=np.array([5, 3, 6, 4, 3]),
    ...     source_offsets=np.array([0, 3, 5]),
    ...     target_offsets=np.array([0, 2, 5]),
    ... )
    >>> batch = pack(pairs, [np.array([0, 1])], source_row_length=6, target_row_length=6)
    >>> for name, row in batch.items():
    ...     print(f"{name:17}", *row[0])
    source_tokens     7 8 3 9 3 0
    source_segments   1 1 1 2 2 0
    source_positions  0 1 2 0 1 0
    labels            5 3 6 4 3 0
    target_segments   1 1 2 2 2 0
    target_positions  0 1 0 1 2 0
    decoder_input     2 5 2 6 4 0

    Args:
      pairs: the tokens.
      row_pairs: the numbers of the pairs of each of B rows.
      source_row_length: S.
      target_row_length: T.

    Returns:
      int32 [B, S] source_tokens, source_segments, source_positions; int32 [B, T] decoder_input,
      labels, target_segments, target_positions.
    """
    rows = _lay_out(pairs.source, pairs.source_offsets, row_pairs, source_row_length)
    batch = dict(zip(("source_tokens", "source_segments", "source_positions"), rows, strict=True))
    rows = _lay_out(pairs.target, pairs.target_offsets, row_pairs, target_row_length)
    batch |= zip(("labels", "target_segments", "target_positions"), rows, strict=True)
    first = batch["target_positions"] == 0
    shifted = np.where(first, BOS_ID, np.roll(batch["labels"], 1, axis=1))
    batch["decoder_input"] = np.where(batch["target_segments"] == 0, PAD_ID, shifted)
    return {name: array.astype(np.int32) for name, array in batch.items()}


def _lay_out(
    tokens: np.ndarray, offsets: np.ndarray, row_pairs: Sequence[np.ndarray], length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens, segments and positions of each row, each int32 [B, length]."""
    pair = np.concatenate([*row_pairs, np.zeros(0, np.int64)]).astype(np.int64)
    counts = np.array([len(row) for row in row_pairs], np.int64)
    row = np.repeat(np.arange(len(row_pairs)), counts)
    rank = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = offsets[pair + 1] - offsets[pair]
    ends = np.cumsum(lengths)
    row_starts = np.concatenate([[0], ends])[np.cumsum(counts) - counts]
    start_in_row = ends - lengths - row_starts[row]
    position = np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)
    place = np.repeat(row * length + start_in_row, lengths) + position
    laid_out = np.zeros((3, len(row_pairs) * length), np.int32)
    laid_out[0, place] = tokens[np.repeat(offsets[pair], lengths) + position]
    laid_out[1, place] = np.repeat(rank + 1, lengths)
    laid_out[2, place] = position
    return tuple(laid_out.reshape(3, len(row_pairs), length))
