"""How far the points of a sweep are, from the metrics.jsonl of each run, as a table."""

import contextlib
import dataclasses
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax import console
from transformer_jax.errors import UserError
from transformer_jax.sweeps.summary import STATES, Point, count
from transformer_jax.workdir.metrics import METRICS_FILE, read_metrics

_SHORTEST_NAME = 12
_RATE_FROM = 10  # rows; the time left is estimated from the last ones


class Progress:
    """What a run has logged so far.

    Attributes:
      step: the last one logged; 0 = none yet.
      loss: the training loss there; None if there is none, or it is not finite.
      valid: [(step, validation loss), …]; nan where it is not finite.
      bleu: the last validation BLEU.
      seconds_left: at the speed of the last rows; None = unknown.
    """

    def __init__(self, workdir: Path, steps: int) -> None:
        self._path, self._steps, self._seen = workdir / METRICS_FILE, steps, (0, 0)
        self._read([])

    def refresh(self) -> None:
        """Reads the metrics again if the file has changed."""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return
        if (now.st_mtime_ns, now.st_size) != self._seen:
            self._seen = now.st_mtime_ns, now.st_size
            rows = []
            with contextlib.suppress(UserError):  # damaged: the run itself reports it
                rows = read_metrics(self._path)
            self._read(rows)

    def _read(self, rows: Sequence[dict[str, Any]]) -> None:
        self.step, self.loss, self.bleu, self.seconds_left = 0, None, None, None
        self.valid: list[tuple[int, float]] = []
        for row in rows:
            valid = row.get("valid", {})
            self.step, self.bleu = row["step"], valid.get("bleu", self.bleu)
            self.loss = row["train"].get("loss") if "train" in row else self.loss
            if "loss" in valid:
                loss = math.nan if valid["loss"] is None else valid["loss"]
                self.valid.append((row["step"], loss))
        last = [row for row in rows if "train" in row][-_RATE_FROM:]
        if len(last) > 1 and last[-1]["step"] > last[0]["step"]:
            pace = (last[-1]["time"] - last[0]["time"]) / (last[-1]["step"] - last[0]["step"])
            self.seconds_left = pace * max(0, self._steps - self.step)


@dataclasses.dataclass(frozen=True)
class Line:
    """A point in the table: how many steps it trains, and how far it is."""

    point: Point
    steps: int
    progress: Progress

    def cells(self) -> tuple[str, ...]:
        """The row of the table, in the order of its header."""
        point, p = self.point, self.progress
        return (
            point.name,
            point.state,
            f"{p.step}/{self.steps}" if p.step else "",
            "" if p.loss is None else f"{p.loss:.3f}",
            f"{p.valid[-1][1]:.3f}" if p.valid else "",
            "" if p.bleu is None else f"{p.bleu:.1f}",
            console.clock(p.seconds_left) if point.state == "running" and p.seconds_left else "",
        )

    def change(self) -> str:
        """The line that reports the state: "name: finished: validation loss 3.0000, BLEU 11.0"."""
        details = self.point.reason if self.point.state == "failed" else ""
        if self.point.state == "finished" and self.progress.valid:
            bleu = "" if self.progress.bleu is None else f", BLEU {self.progress.bleu:.1f}"
            details = f"validation loss {self.progress.valid[-1][1]:.4f}{bleu}"
        return f"{self.point.name}: {self.point.state}" + (f": {details}" if details else "")


class Table:
    """The points, redrawn in place on a terminal; elsewhere one line for each change of state."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._drawn = 0  # lines
        self._live = sys.stderr.isatty()

    def show(self, lines: Sequence[Line]) -> None:
        """Brings the table up to date."""
        if self._live:
            width, height = shutil.get_terminal_size()
            self._redraw(render(lines, height=height - 1, width=width - 1), width)
            return
        for line in lines:
            if self._states.get(line.point.name, "waiting") != line.point.state:
                console.log(line.change())
            self._states[line.point.name] = line.point.state

    def _redraw(self, lines: Sequence[str], width: int) -> None:
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"{line[: width - 1]}\x1b[K\n" for line in lines)
        sys.stderr.write(f"{up}{body}\x1b[J")  # also clears what was below
        sys.stderr.flush()
        self._drawn = len(lines)


def render(lines: Sequence[Line], *, height: int, width: int) -> list[str]:
    """The table in at most `height` lines, running points first.

    Names are shortened in the middle where the table would be wider than `width`.
    """
    order = sorted(lines, key=lambda line: STATES.index(line.point.state))
    room = max(1, height - 2)  # besides the header and the count
    shown = order if len(order) <= room else order[: max(0, room - 1)]
    header = ("point", "state", "step", "loss", "valid", "BLEU", "left")
    rows = [header, *(line.cells() for line in shown)]
    excess = len(console.table(rows, left=2)[0]) - width
    if excess > 0:
        longest = max(_SHORTEST_NAME, max(len(name) for name, *_ in rows) - excess)
        rows = [(_shortened(name, longest), *rest) for name, *rest in rows]
    more = [f"… and {len(order) - len(shown)} more"] if len(shown) < len(order) else []
    return [*console.table(rows, left=2), *more, count([line.point for line in lines])]


def _shortened(name: str, width: int) -> str:
    """ "table3…_seed_0": the ends tell more than the middle."""
    if len(name) <= width:
        return name
    end = (width - 1) * 2 // 3
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"
