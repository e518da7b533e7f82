"""Epochs that differ: each is drawn, cut and packed as a pure function of (seed, epoch)."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import numpy as np

from transformer_jax.data.packing import Rows, plan_packing
from transformer_jax.data.subword_dropout import SubwordDropout
from transformer_jax.data.tokens import TokenizedPairs, take
from transformer_jax.errors import UserError

# Pairs that are cut with one state of the random numbers: another size is another cut.
_CHUNK = 10_000
# Apart from those of the order of the rows, which come from [seed, epoch].
_PIECES = 1


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What the batches of one epoch are made of.

    Attributes:
      pairs: the tokens.
      rows: the numbers of the pairs of each row.
      numbers: int64 [pairs], the numbers in the text of `pairs`; None if they are the text's own.
    """

    pairs: TokenizedPairs
    rows: Rows
    numbers: np.ndarray | None = None


class Epochs:
    """Makes each epoch, and the next one in the background while an epoch is in use.

    Epochs have other pairs, or other pieces of them, and so they have other numbers of rows. But a
    step finds its epoch by one division, so all are made as long as the first: random rows of a
    longer one are left out, and the first rows of a shorter one come once more.
    """

    def __init__(
        self,
        pairs: TokenizedPairs,
        *,
        draw: Callable[[int], np.ndarray] | None = None,
        dropout: tuple[SubwordDropout, SubwordDropout] | None = None,
        seed: int,
        source_row_length: int,
        target_row_length: int,
        total_rows: int,
        rows: int = 0,
    ) -> None:
        """Makes the first epoch if `rows` is 0.

        Args:
          pairs: the tokens of the text, cut without dropout.
          draw: the numbers of the pairs of an epoch; None = all.
          dropout: of the source and of the target; None = `pairs` are used as they are.
          seed: decides the pieces, and the order of the rows.
          source_row_length: S.
          target_row_length: T.
          total_rows: the rows of the whole run; no epoch is made that begins after them.
          rows: the rows of an epoch, as a run that resumes recorded them.
        """
        self._pairs, self._draw, self._dropout = pairs, draw, dropout
        self._seed, self._total_rows, self.rows = seed, total_rows, rows
        self._row_lengths = {
            "source_row_length": source_row_length,
            "target_row_length": target_row_length,
        }
        self._upcoming: tuple[int, Future] | None = None
        if not rows:
            first = self._make(0)
            self.rows = len(first.rows)
            self._upcoming = 0, Future()
            self._upcoming[1].set_result(first)

    def __call__(self, number: int) -> Epoch:
        """The epoch of that number; call for the next one when this one is no longer needed."""
        if self._upcoming is None or self._upcoming[0] != number:
            self._start(number)
        epoch = self._upcoming[1].result()
        if (number + 1) * self.rows < self._total_rows:
            self._start(number + 1)
        return epoch

    def _start(self, number: int) -> None:
        future = Future()
        self._upcoming = number, future
        # No daemon, which would be stopped inside of numpy, and no pool, which would be waited for.
        threading.Thread(target=_fulfil, args=(future, lambda: self._make(number))).start()

    def _make(self, number: int) -> Epoch:
        whole = self._pairs
        numbers = self._draw(number) if self._draw else np.arange(len(whole))
        if self._dropout:
            pairs = self._cut(number, numbers)
            lengths, drawn = (pairs.source_lengths, pairs.target_lengths), numbers
        else:
            pairs, drawn = whole, None
            lengths = whole.source_lengths[numbers], whole.target_lengths[numbers]
        plan = plan_packing(*lengths, **self._row_lengths)
        if not plan.rows:
            raise UserError(none_fits(len(numbers), **self._row_lengths))
        rows = plan.epoch(self._seed, number).cycled(self.rows or plan.rows)
        if not self._dropout:
            rows = Rows(numbers[rows.pairs], rows.starts)
        return Epoch(pairs, rows, drawn)

    def _cut(self, number: int, numbers: np.ndarray) -> TokenizedPairs:
        """The pairs of these numbers in the pieces of that epoch."""
        whole = self._pairs
        sides = (
            self._cut_side(number, numbers, 0, whole.source, whole.source_offsets),
            self._cut_side(number, numbers, 1, whole.target, whole.target_offsets),
        )
        (source, target), (source_offsets, target_offsets) = zip(*sides, strict=True)
        return TokenizedPairs(source, target, source_offsets, target_offsets)

    def _cut_side(
        self, number: int, numbers: np.ndarray, side: int, tokens: np.ndarray, offsets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        found, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
        for chunk, start in enumerate(range(0, len(numbers), _CHUNK)):
            if not threading.main_thread().is_alive():
                raise CancelledError  # the program ends, and would wait for this thread
            part = take(tokens, offsets, numbers[start : start + _CHUNK])
            rng = np.random.default_rng([self._seed, number, _PIECES, chunk, side])
            cut, cut_offsets = self._dropout[side](*part, rng)
            found.append(cut)
            lengths.append(np.diff(cut_offsets))
        return np.concatenate(found), np.cumsum(np.concatenate(lengths))


def none_fits(pairs: int, *, source_row_length: int, target_row_length: int) -> str:
    """The error of text whose pairs are all longer than a row."""
    return (
        f"none of {pairs} pairs fits in rows of {source_row_length} and {target_row_length} "
        "tokens: raise data.source_row_length, target_row_length"
    )


def _fulfil(future: Future, make: Callable[[], Epoch]) -> None:
    try:
        future.set_result(make())
    except BaseException as e:  # raised again where the epoch is used
        future.set_exception(e)
