"""From pairs of text to batches of fixed shape: tokens once, a packing plan, `batch(step)`.

Everything after the tokens is a pure function of (lengths, seed, step): resume needs no iterator
state, and neither the number of hosts nor of devices changes what is learned.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from transformer_jax.data.epochs import Epoch, Epochs
from transformer_jax.data.packing import Batch, PackingPlan, pack, plan_packing
from transformer_jax.data.tokens import TokenizedPairs


class PackedDataset:
    """Batches of packed rows; the batch of a step depends on nothing but the step."""

    def __init__(
        self,
        pairs: TokenizedPairs,
        plan: PackingPlan,
        *,
        batch_rows: int,
        seed: int,
        epochs: Epochs | None = None,
    ) -> None:
        """Takes the tokens of every epoch from `pairs`, unless there are `epochs`.

        Args:
          pairs: the tokens of the text.
          plan: of `pairs`.
          batch_rows: B, the rows of the global batch.
          seed: decides the order of the rows.
          epochs: what each epoch is made of, where epochs differ.
        """
        self.pairs, self.plan = pairs, plan
        self.batch_rows, self.seed = batch_rows, seed
        self.epoch_rows = epochs.rows if epochs else plan.rows
        self._make: Callable[[int], Epoch] = epochs or self._shuffled
        self._current: tuple[int, Epoch | None] = (-1, None)

    def _shuffled(self, number: int) -> Epoch:
        return Epoch(self.pairs, self.plan.epoch(self.seed, number))

    def epoch(self, number: int) -> Epoch:
        """What the batches of one epoch are made of; the last one asked for is kept."""
        if self._current[0] != number:
            self._current = -1, None  # makes room for the next
            self._current = number, self._make(number)
        return self._current[1]

    @property
    def real_share(self) -> float:
        """The share of positions in an epoch, both sides together, that are not padding."""
        used = self.plan.pairs
        real = self.pairs.source_lengths[used].sum() + self.pairs.target_lengths[used].sum()
        row = self.plan.source_row_length + self.plan.target_row_length
        return float(real / (self.plan.rows * row))

    def tokens_seen(self, steps: int) -> tuple[int, int]:
        """(source, target) tokens in the batches of the first `steps` steps, without padding.

        Where epochs differ, those before the last one are taken to have as many tokens as it has.
        """
        rows = steps * self.batch_rows
        epochs = max(0, rows - 1) // self.epoch_rows
        epoch = self.epoch(epochs)
        rows -= epochs * self.epoch_rows
        used, starts = epoch.rows.pairs, epoch.rows.starts
        source, target = (
            int(epochs * lengths[used].sum() + lengths[used[: starts[rows]]].sum())
            for lengths in (epoch.pairs.source_lengths, epoch.pairs.target_lengths)
        )
        return source, target

    def batch_pairs(self, step: int, rows: range | None = None) -> list[np.ndarray]:
        """The pair numbers of each row of the batch of `step` (from 0); see `batch`."""
        return [
            row if epoch.numbers is None else epoch.numbers[row]
            for epoch, part in self._parts(step, rows)
            for row in part
        ]

    def _parts(self, step: int, rows: range | None) -> Iterator[tuple[Epoch, list[np.ndarray]]]:
        """The rows of the batch of `step`, in one part for each epoch that it has rows of."""
        rows = range(self.batch_rows) if rows is None else rows
        places = (divmod(step * self.batch_rows + row, self.epoch_rows) for row in rows)
        for number, part in itertools.groupby(places, key=lambda place: place[0]):
            epoch = self.epoch(number)
            yield epoch, [epoch.rows[place] for _, place in part]

    def batch(self, step: int, rows: range | None = None) -> Batch:
        """The batch of `step` (from 0): what `pack` returns, and "row", int32 [B], 0, 1, 2, …

        `rows` selects a part of the global batch, which one of several processes reads.
        """
        first = 0 if rows is None else rows.start
        parts = [self._pack(epoch.pairs, part) for epoch, part in self._parts(step, rows)]
        return _numbered(
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, first
        )

    def one_epoch(self, numbers: np.ndarray | None = None) -> list[Batch]:
        """Batches that hold every pair exactly once; empty rows fill the last one.

        `numbers` selects pairs; of none of them that fits in a row there is no batch.
        """
        if numbers is None:
            rows = [*self.plan.epoch(self.seed, 0)]
        else:
            plan = plan_packing(
                self.pairs.source_lengths[numbers],
                self.pairs.target_lengths[numbers],
                source_row_length=self.plan.source_row_length,
                target_row_length=self.plan.target_row_length,
            )
            rows = [numbers[row] for row in plan.epoch(self.seed, 0)] if plan.rows else []
        rows += [np.zeros(0, np.int64)] * (-len(rows) % self.batch_rows)
        starts = range(0, len(rows), self.batch_rows)
        return [
            _numbered(self._pack(self.pairs, rows[start : start + self.batch_rows]))
            for start in starts
        ]

    def _pack(self, pairs: TokenizedPairs, row_pairs: list[np.ndarray]) -> Batch:
        batch = pack(
            pairs,
            row_pairs,
            source_row_length=self.plan.source_row_length,
            target_row_length=self.plan.target_row_length,
        )
        pairs.release()
        return batch


def _numbered(batch: Batch, first: int = 0) -> Batch:
    rows = np.arange(first, first + len(batch["labels"]), dtype=np.int32)
    return batch | {"row": rows}
