"""From pairs of text to batches of fixed shape: tokens once, a packing plan, `batch(step)`.

Everything after the tokens is a pure function of (lengths, seed, step): resume needs no iterator
state, and neither the number of hosts nor of devices changes what is learned.
"""

import numpy as np

from transformer_jax.data.packing import Batch, PackingPlan, pack
from transformer_jax.data.tokens import TokenizedPairs


class PackedDataset:
    """Batches of packed rows; the batch of a step depends on nothing but the step."""

    def __init__(
        self, pairs: TokenizedPairs, plan: PackingPlan, *, batch_rows: int, seed: int
    ) -> None:
        """`batch_rows` is B, the rows of the global batch; `seed` decides their order."""
        self.pairs, self.plan = pairs, plan
        self.batch_rows, self.seed = batch_rows, seed
        self._epoch: tuple[int, list[np.ndarray]] = (-1, [])

    @property
    def real_share(self) -> float:
        """The share of positions in an epoch, both sides together, that are not padding."""
        used = self.plan.pairs
        real = self.pairs.source_lengths[used].sum() + self.pairs.target_lengths[used].sum()
        row = self.plan.source_row_length + self.plan.target_row_length
        return float(real / (self.plan.rows * row))

    def tokens_seen(self, steps: int) -> tuple[int, int]:
        """(source, target) tokens in the batches of the first `steps` steps, without padding."""
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
        """The batch of `step` (from 0): what `pack` returns, and "row", int32 [B], 0, 1, 2, …

        `rows` selects a part of the global batch, which one of several processes reads.
        """
        first = 0 if rows is None else rows.start
        return self._batch(self.batch_pairs(step, rows), first)

    def one_epoch(self) -> list[Batch]:
        """Batches that hold every pair exactly once; empty rows fill the last one."""
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
