"""Pairs of text in a temporary file: a training reads more of them than fit in memory."""

import operator
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np

from transformer_jax.errors import UserError

Pair = tuple[str, str]

_CHUNK = 10_000  # pairs written or read at a time


class Pairs(Sequence[Pair]):
    """(source, target) pairs, read from a file whenever they are used.

    In memory a pair takes 20 bytes: where its sides end, and its number in the file. Slices and
    parts share the file, which has no name and goes with the last of them.
    """

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        """Writes `pairs` into a file, in $TMPDIR or /tmp.

        Raises:
          UserError: if there is no room for it.
        """
        self._ends = array("q", [0])  # of every side, source by source and target by target
        self._file, rest = tempfile.TemporaryFile(), iter(pairs)  # noqa: SIM115
        while chunk := list(islice(rest, _CHUNK)):
            sides = [text.encode() for pair in chunk for text in pair]
            ends = self._ends[-1] + np.cumsum(np.fromiter(map(len, sides), np.int64))
            self._ends.frombytes(ends.tobytes())
            try:
                self._file.write(b"".join(sides))
                self._file.flush()
            except OSError as e:
                raise UserError(
                    f"no room for the text in {tempfile.gettempdir()} ({e.strerror}): set TMPDIR "
                    "to a folder with more"
                ) from None
        self._numbers = np.arange(len(self._ends) // 2, dtype=np.int32)

    def part(self, numbers: Any) -> "Pairs":
        """The pairs of these numbers, or of this slice."""
        part = object.__new__(Pairs)
        part._file, part._ends, part._numbers = self._file, self._ends, self._numbers[numbers]
        return part

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.part(index)
        return next(self._read(self._numbers[[index]]))

    def __iter__(self) -> Iterator[Pair]:
        for start in range(0, len(self), _CHUNK):
            yield from self._read(self._numbers[start : start + _CHUNK])

    def _read(self, numbers: np.ndarray) -> Iterator[Pair]:
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            ends = self._ends[2 * int(run[0]) : 2 * int(run[-1]) + 3]
            content = os.pread(self._file.fileno(), ends[-1] - ends[0], ends[0])
            cuts = ((start - ends[0], end - ends[0]) for start, end in pairwise(ends))
            sides = (content[start:end].decode() for start, end in cuts)
            yield from zip(sides, sides, strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))
