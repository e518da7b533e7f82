"""The progress of a sweep's points, read from the metrics.jsonl of each run, as a table."""

import contextlib
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax import console
from transformer_jax.errors import UserError
from transformer_jax.sweeps.summary import STATES, Point, count
from transformer_jax.workdir import average
from transformer_jax.workdir.metrics import METRICS_FILE, read_metrics

_SHORTEST_NAME = 12
_RATE_FROM = 10  # rows; the time left is estimated from the last ones


class Progress:
    """What a run that trains `steps` steps has logged so far.

    Attributes:
      step: the last one logged; 0 = none yet.
      loss: the training loss there; None if there is none, or it is not finite.
      valid: [(step, validation loss), …]; nan where it is not finite.
      validation: of the weights that the run is used with; see `average.validation`.
      seconds_left: at the speed of the last rows; None = unknown.
    """

    def __init__(self, workdir: Path, steps: int) -> None:
        self.steps, self._workdir, self._seen = steps, workdir, []
        self.validation: dict[str, Any] = {}
        self._read([])

    def refresh(self) -> None:
        """Reads the metrics again if a file has changed."""
        files = [self._workdir / name for name in (METRICS_FILE, average.AVERAGE_FILE)]
        now = [(s.st_mtime_ns, s.st_size) for s in (f.stat() for f in files if f.exists())]
        if now == self._seen:
            return
        self._seen = now
        with contextlib.suppress(UserError):  # the run itself reports damage
            rows = read_metrics(files[0])
            self._read(rows)
            self.validation = average.validation(self._workdir, rows)

    def _read(self, rows: Sequence[dict[str, Any]]) -> None:
        self.step, self.loss, self.seconds_left = 0, None, None
        self.valid: list[tuple[int, float]] = []
        for row in rows:
            valid, self.step = row.get("valid", {}), row["step"]
            self.loss = row["train"].get("loss") if "train" in row else self.loss
            if "loss" in valid:
                loss = math.nan if valid["loss"] is None else valid["loss"]
                self.valid.append((row["step"], loss))
        last = [row for row in rows if "train" in row][-_RATE_FROM:]
        if len(last) > 1 and last[-1]["step"] > last[0]["step"]:
            pace = (last[-1]["time"] - last[0]["time"]) / (last[-1]["step"] - last[0]["step"])
            self.seconds_left = pace * max(0, self.steps - self.step)


Line = tuple[Point, Progress]  # of the table
_HEADER = ("point", "state", "step", "loss", "valid", "BLEU", "left")


def _cells(point: Point, p: Progress) -> tuple[str, ...]:
    """The row of the table under `_HEADER`."""
    return (
        point.name,
        point.state,
        f"{p.step}/{p.steps}" if p.step else "",
        "" if p.loss is None else f"{p.loss:.3f}",
        _score(p, "loss", 3),
        _score(p, "bleu", 1),
        console.clock(p.seconds_left) if point.state == "running" and p.seconds_left else "",
    )


def _change(point: Point, p: Progress) -> str:
    """The line that reports the state: "name: finished: validation loss 3.0000, BLEU 11.0"."""
    details = f": {point.reason}" if point.state == "failed" else ""
    if point.state == "finished" and p.validation:
        details = f": validation loss {_score(p, 'loss', 4)}, BLEU {_score(p, 'bleu', 1)}"
    return f"{point.name}: {point.state}{details}"


def _score(p: Progress, name: str, digits: int) -> str:
    """A score of the validation; "" = there is none, "nan" = it is not finite."""
    if name not in p.validation:
        return ""
    value = p.validation[name]
    return f"{math.nan if value is None else value:.{digits}f}"


class Table:
    """The points, redrawn in place on a terminal; elsewhere one line for each change of state."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._drawn = 0  # lines
        self._live = sys.stderr.isatty()

    def show(self, lines: Sequence[Line]) -> None:
        """Brings the table up to date."""
        if not self._live:
            for point, progress in lines:
                if self._states.get(point.name, "waiting") != point.state:
                    console.log(_change(point, progress))
                self._states[point.name] = point.state
            return
        width, height = shutil.get_terminal_size()
        drawn = render(lines, height=height - 1, width=width - 1)
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"{line[: width - 1]}\x1b[K\n" for line in drawn)
        sys.stderr.write(f"{up}{body}\x1b[J")  # also clears what was below
        sys.stderr.flush()
        self._drawn = len(drawn)


def render(lines: Sequence[Line], *, height: int, width: int) -> list[str]:
    """The table in at most `height` lines, running points first.

    Names are shortened in the middle where the table would be wider than `width`.
    """
    order = sorted(lines, key=lambda line: STATES.index(line[0].state))
    room = max(1, height - 2)  # besides the header and the count
    shown = order if len(order) <= room else order[: max(0, room - 1)]
    rows = [_HEADER, *(_cells(*line) for line in shown)]
    excess = len(console.table(rows, left=2)[0]) - width
    if excess > 0:
        longest = max(_SHORTEST_NAME, max(len(name) for name, *_ in rows) - excess)
        rows = [(_shortened(name, longest), *rest) for name, *rest in rows]
    more = [f"… and {len(order) - len(shown)} more"] if len(shown) < len(order) else []
    return [*console.table(rows, left=2), *more, count([point for point, _ in lines])]


def _shortened(name: str, width: int) -> str:
    """ "table3…_seed_0": its ends distinguish a name better than its middle."""
    if len(name) <= width:
        return name
    end = (width - 1) * 2 // 3
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"
