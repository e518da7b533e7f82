"""Packing: several pairs share a row of fixed shape. The lengths alone decide which."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer_jax.config.options import BOS_ID, PAD_ID
from transformer_jax.data.tokens import TokenizedPairs

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PackingPlan:
    """Which (source, target) lengths share a row: made once, and filled with pairs by each epoch.

    Packing depends on lengths alone, so two pairs of the same lengths can change places. The plan
    is therefore a list of slots for lengths; each epoch deals the pairs to slots of their lengths,
    and shuffles the rows. So every epoch has the same number of rows, and the epoch of a step is
    one division.

    Attributes:
      source_row_length: S, tokens of source in one row.
      target_row_length: T, tokens of target in one row.
      rows: the number of rows in an epoch.
      slot_row: int64 [slots], the row of each slot. Slots are in the order of their lengths.
      slot_rank: int64 [slots], the place of each slot in its row.
      pairs: int64 [slots], the pairs, in the order of their lengths.
      lengths_id: int64 [slots], a number for the lengths of each slot, ascending.
      too_long: the number of pairs left out because they are longer than a row.
    """

    source_row_length: int
    target_row_length: int
    rows: int
    slot_row: np.ndarray
    slot_rank: np.ndarray
    pairs: np.ndarray
    lengths_id: np.ndarray
    too_long: int

    def epoch(self, seed: int, epoch: int) -> list[np.ndarray]:
        """The pairs of each row in one epoch: a list of `rows` arrays of pair numbers."""
        rng = np.random.default_rng([seed, epoch])
        dealt = self.pairs[np.lexsort((rng.random(len(self.pairs)), self.lengths_id))]
        row = rng.permutation(self.rows)[self.slot_row]
        order = np.lexsort((self.slot_rank, row))
        return np.split(dealt[order], np.cumsum(np.bincount(row, minlength=self.rows))[:-1])


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
    fits = (source_lengths <= source_row_length) & (target_lengths <= target_row_length)
    pairs = np.flatnonzero(fits)
    ids = source_lengths[pairs] * (target_row_length + 1) + target_lengths[pairs]
    order = np.argsort(ids, kind="stable")
    counts = np.zeros((source_row_length + 1, target_row_length + 1), np.int64)
    np.add.at(counts, (source_lengths[pairs], target_lengths[pairs]), 1)
    slot_id, slot_row, slot_rank, rows = _fill_rows(counts)
    by_lengths = np.argsort(slot_id, kind="stable")
    return PackingPlan(
        source_row_length=source_row_length,
        target_row_length=target_row_length,
        rows=rows,
        slot_row=slot_row[by_lengths],
        slot_rank=slot_rank[by_lengths],
        pairs=pairs[order],
        lengths_id=ids[order],
        too_long=int(len(fits) - len(pairs)),
    )


def _fill_rows(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Slots (lengths id, row, rank) that use up counts[source length, target length]."""
    rows, nothing = 0, np.zeros(0, np.int64)
    ids, slot_rows, ranks = [nothing], [nothing], [nothing]
    left = counts.copy()
    while left.any():
        filling = fill_row(left)
        used = {lengths: filling.count(lengths) for lengths in filling}
        repeats = int(min(left[lengths] // times for lengths, times in used.items()))
        for lengths, times in used.items():
            left[lengths] -= repeats * times
        ids.append(np.tile([s * counts.shape[1] + t for s, t in filling], repeats))
        slot_rows.append(np.repeat(np.arange(rows, rows + repeats), len(filling)))
        ranks.append(np.tile(np.arange(len(filling)), repeats))
        rows += repeats
    return np.concatenate(ids), np.concatenate(slot_rows), np.concatenate(ranks), rows


def fill_row(left: np.ndarray) -> list[tuple[int, int]]:
    """The (source, target) lengths that one row takes of those that are left."""
    left = left.copy()
    source_row, target_row = left.shape[0] - 1, left.shape[1] - 1
    source_free, target_free = source_row, target_row
    filling: list[tuple[int, int]] = []
    while True:
        source, target = np.nonzero(left[: source_free + 1, : target_free + 1])
        if not len(source):
            return filling
        # A large pair that leaves both sides equally full: a row whose source is full wastes the
        # rest of its target. (Without that term 5 % of positions are padding, with it 2 %.)
        imbalance = (source_free - source) / source_row - (target_free - target) / target_row
        best = np.argmax(source / source_row + target / target_row - np.abs(imbalance))
        lengths = int(source[best]), int(target[best])
        filling.append(lengths)
        left[lengths] -= 1
        source_free, target_free = source_free - lengths[0], target_free - lengths[1]


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
