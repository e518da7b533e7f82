"""From pairs of text to batches of fixed shape: tokens once, a packing plan, `batch(step)`.

Everything after the tokens is a pure function of (lengths, seed, step): resume needs no iterator
state, and neither the number of hosts nor of devices changes what is learned.
"""

import dataclasses
import hashlib
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from transformer_jax import manifest
from transformer_jax.config import BOS_ID, EOS_ID, PAD_ID, is_remote, write_whole
from transformer_jax.data.tokenizer import Tokenizers

_CHUNK = 10_000  # pairs encoded between two ticks of the progress bar

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TokenizedPairs:
    """Pairs as ids: all sentences end to end, and where each one starts.

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
        """Tokens of each source with its <eos>, int64 [pairs]."""
        return np.diff(self.source_offsets)

    @property
    def target_lengths(self) -> np.ndarray:
        """Tokens of each target with its <eos>, int64 [pairs]."""
        return np.diff(self.target_offsets)


_NAMES = [f.name for f in dataclasses.fields(TokenizedPairs)]


def tokenize_pairs(
    pairs: Sequence[tuple[str, str]],
    tokenizers: Tokenizers,
    cache_dir: Path | None = None,
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> TokenizedPairs:
    """Encodes every pair once; both sides end in <eos>.

    Args:
      pairs: (source, target) strings.
      tokenizers: encode them.
      cache_dir: where to keep the tokens, named by a hash of text and tokenizers; None = in memory.
      progress: told how many more pairs are done, now and then.
    """
    if cache_dir is None:
        return TokenizedPairs(*_encode(pairs, tokenizers, progress))
    folder = cache_dir / content_hash(pairs, tokenizers)
    cached = _read_cache(folder)
    if cached is None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in zip(_NAMES, _encode(pairs, tokenizers, progress), strict=True):
            content = io.BytesIO()
            np.save(content, array)
            write_whole(folder / f"{name}.npy", content.getvalue())
        manifest.write(folder)
        cached = _read_cache(folder)
    return TokenizedPairs(*cached)


def _read_cache(folder: Path) -> list[np.ndarray] | None:
    """What was encoded before; None if something of it is missing or damaged."""
    files = [folder / f"{name}.npy" for name in _NAMES]
    if not manifest.exists(folder) or manifest.damaged(folder):
        return None
    try:
        if is_remote(folder):
            return [np.load(io.BytesIO(file.read_bytes())) for file in files]
        return [np.load(file, mmap_mode="r") for file in files]
    except (OSError, EOFError, ValueError):
        return None


def content_hash(pairs: Sequence[tuple[str, str]], tokenizers: Tokenizers) -> str:
    """Names what training reads: 16 hexadecimal digits of SHA-256 over tokenizers and text."""
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


@dataclasses.dataclass(frozen=True)
class PackingPlan:
    """Which shapes of pair share a row. It is made once; an epoch fills it with pairs.

    Packing depends on lengths alone, so any two pairs of the same (source, target) lengths can
    change places. The plan is therefore a list of slots for lengths; each epoch deals the pairs
    out to the slots of their own lengths, and shuffles the rows. So every epoch has the same
    number of rows, and the epoch of a step is one division.

    Attributes:
      source_row_length: S, tokens of source in one row.
      target_row_length: T, tokens of target in one row.
      rows: number of rows in an epoch.
      slot_row: int64 [slots], the row of each slot. Slots are ordered by the lengths they take.
      slot_rank: int64 [slots], the slot's place within its row.
      pairs: int64 [slots], the pairs, ordered by the same lengths.
      lengths_id: int64 [slots], a number for the lengths of the slot, ascending.
      too_long: pairs longer than a row, which are left out.
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
    """Packs pairs into rows, as few as a greedy fill finds.

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
        filling = _fill_one_row(left)
        used = {lengths: filling.count(lengths) for lengths in filling}
        repeats = int(min(left[lengths] // times for lengths, times in used.items()))
        for lengths, times in used.items():
            left[lengths] -= repeats * times
        ids.append(np.tile([s * counts.shape[1] + t for s, t in filling], repeats))
        slot_rows.append(np.repeat(np.arange(rows, rows + repeats), len(filling)))
        ranks.append(np.tile(np.arange(len(filling)), repeats))
        rows += repeats
    return np.concatenate(ids), np.concatenate(slot_rows), np.concatenate(ranks), rows


def _fill_one_row(left: np.ndarray) -> list[tuple[int, int]]:
    """The (source, target) lengths that one row takes from what is left."""
    left = left.copy()
    source_row, target_row = left.shape[0] - 1, left.shape[1] - 1
    source_free, target_free = source_row, target_row
    filling: list[tuple[int, int]] = []
    while True:
        source, target = np.nonzero(left[: source_free + 1, : target_free + 1])
        if not len(source):
            return filling
        # A large pair, but one that leaves both sides equally full: a row whose source is full
        # wastes what its target has left. (Without that term 5 % of positions are lost, with it 2.)
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
      row_pairs: for each of B rows the numbers of its pairs.
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
    """Tokens, segments and positions, each [B, length], of the pairs of each row."""
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


class PackedDataset:
    """Batches of packed rows; the batch of a step is a function of the step alone."""

    def __init__(
        self, pairs: TokenizedPairs, plan: PackingPlan, *, batch_rows: int, seed: int
    ) -> None:
        """`batch_rows` is B, the rows of the global batch; `seed` decides their order."""
        self.pairs, self.plan = pairs, plan
        self.batch_rows, self.seed = batch_rows, seed
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def steps_per_epoch(self) -> float:
        """Batches that hold every pair once; not a whole number, since epochs run on."""
        return self.plan.rows / self.batch_rows

    @property
    def real_share(self) -> float:
        """The share of positions in an epoch, both sides together, that are not padding."""
        used = self.plan.pairs
        real = self.pairs.source_lengths[used].sum() + self.pairs.target_lengths[used].sum()
        row = self.plan.source_row_length + self.plan.target_row_length
        return float(real / (self.plan.rows * row))

    def tokens_seen(self, steps: int) -> tuple[int, int]:
        """The real tokens, of source and of target, in the batches of the first `steps` steps."""
        epochs, rows = divmod(steps * self.batch_rows, self.plan.rows)
        part = np.concatenate([*self._epoch_rows(epochs)[:rows], np.zeros(0, np.int64)])
        part = part.astype(np.int64)
        source, target = (
            int(epochs * lengths[self.plan.pairs].sum() + lengths[part].sum())
            for lengths in (self.pairs.source_lengths, self.pairs.target_lengths)
        )
        return source, target

    def batch_pairs(self, step: int, rows: range | None = None) -> list[np.ndarray]:
        """The pair numbers of each row of the batch of `step` (from 0); see `batch`."""
        rows = range(self.batch_rows) if rows is None else rows
        return [self._row(step * self.batch_rows + row) for row in rows]

    def _row(self, row: int) -> np.ndarray:
        epoch, place = divmod(row, self.plan.rows)
        return self._epoch_rows(epoch)[place]

    def _epoch_rows(self, epoch: int) -> list[np.ndarray]:
        if self._epoch[0] != epoch:
            self._epoch = epoch, self.plan.epoch(self.seed, epoch)
        return self._epoch[1]

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """The batch of `step` (from 0): what `pack` gives, and "row", int32 [B], 0, 1, 2, …

        Of the global batch only `rows`, if given: those that one of several processes reads.
        """
        first = 0 if rows is None else rows.start
        return self._batch(self.batch_pairs(step, rows), first)

    def one_epoch(self) -> list[Batch]:
        """Batches that hold every pair exactly once; the last is filled up with empty rows."""
        rows = self.plan.epoch(self.seed, 0)
        rows += [np.zeros(0, np.int64)] * (-len(rows) % self.batch_rows)
        starts = range(0, len(rows), self.batch_rows)
        return [self._batch(rows[start : start + self.batch_rows]) for start in starts]

    def _batch(self, row_pairs: list[np.ndarray], first: int = 0) -> Batch:
        batch = pack(
            self.pairs,
            row_pairs,
            source_row_length=self.plan.source_row_length,
            target_row_length=self.plan.target_row_length,
        )
        return batch | {"row": np.arange(first, first + len(row_pairs), dtype=np.int32)}
