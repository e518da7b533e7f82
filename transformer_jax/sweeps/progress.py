"""How far a sweep is: what each run's metrics.jsonl tells, and a table of it on a terminal."""

import contextlib
import dataclasses
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax.console import clock, log
from transformer_jax.errors import UserError
from transformer_jax.workdir.metrics import METRICS_FILE, read_metrics

_SHORTEST_NAME = 12
_RATE_FROM = 10  # the last rows, that time left is estimated from
STATES = ("running", "interrupted", "failed", "pruned", "finished", "waiting")


class Progress:
    """Of one run, read anew when its file changed.

    Attributes:
      step: the last one written; 0 = none yet.
      loss: of training there; None if there is none, or it is not finite.
      valid: [(step, validation loss), …]; nan where it is not finite.
      bleu: of the last validation.
      seconds_left: at the speed of the last rows; None = not known.
    """

    def __init__(self, workdir: Path, steps: int) -> None:
        self._path, self._steps, self._seen = workdir / METRICS_FILE, steps, (0, 0)
        self._clear()

    def refresh(self) -> None:
        """Reads what the run has written so far."""
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return
        if (now.st_mtime_ns, now.st_size) == self._seen:
            return
        self._seen = now.st_mtime_ns, now.st_size
        self._clear()
        with contextlib.suppress(UserError):  # it is damaged, and the run itself will say so
            self._read(read_metrics(self._path))

    def _clear(self) -> None:
        self.step, self.loss, self.bleu, self.seconds_left = 0, None, None, None
        self.valid: list[tuple[int, float]] = []

    def _read(self, rows: Sequence[dict[str, Any]]) -> None:
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
    """A point in the table."""

    name: str
    state: str
    steps: int
    progress: Progress


class Table:
    """The points, redrawn in place on a terminal; elsewhere one line for each change of state.

    Attributes:
      live: whether it is a terminal.
    """

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._drawn = 0  # lines
        self.live = sys.stderr.isatty()

    def show(self, lines: Sequence[Line], reasons: dict[str, str]) -> None:
        """Brings it up to date; `reasons` says why points failed."""
        changed = [line for line in lines if self._states.get(line.name, "waiting") != line.state]
        self._states |= {line.name: line.state for line in lines}
        if self.live:
            width, height = shutil.get_terminal_size()
            self._redraw(render(lines, height=height - 1, width=width - 1), width)
            return
        for line in changed:
            reason = reasons.get(line.name, "") if line.state == "failed" else ""
            log(f"{line.name}: {line.state}" + (f": {reason}" if reason else _result(line)))

    def _redraw(self, lines: Sequence[str], width: int) -> None:
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"{line[: width - 1]}\x1b[K\n" for line in lines)
        sys.stderr.write(f"{up}{body}\x1b[J")  # and what was below it
        sys.stderr.flush()
        self._drawn = len(lines)


def render(lines: Sequence[Line], *, height: int, width: int) -> list[str]:
    """The table in at most `height` lines: those first that something happens to.

    Names are shortened in the middle where the table would be wider than `width`.
    """
    order = sorted(lines, key=lambda line: STATES.index(line.state))
    room = max(1, height - 2)  # the header and the count
    shown = order if len(order) <= room else order[: max(0, room - 1)]
    rows = [("point", "state", "step", "loss", "valid", "BLEU", "left")]
    for line in shown:
        p = line.progress
        rows.append(
            (
                line.name,
                line.state,
                f"{p.step}/{line.steps}" if p.step else "",
                "" if p.loss is None else f"{p.loss:.3f}",
                f"{p.valid[-1][1]:.3f}" if p.valid else "",
                "" if p.bleu is None else f"{p.bleu:.1f}",
                clock(p.seconds_left) if line.state == "running" and p.seconds_left else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], max(_SHORTEST_NAME, width - sum(widths[1:]) - 2 * len(widths[1:])))
    rows = [(_shortened(name, widths[0]), *rest) for name, *rest in rows]
    text = [
        "  ".join(f"{c:{'<' if i < 2 else '>'}{widths[i]}}" for i, c in enumerate(row)).rstrip()
        for row in rows
    ]
    if len(shown) < len(order):
        text.append(f"… and {len(order) - len(shown)} more")
    return [*text, count(line.state for line in lines)]


def _shortened(name: str, width: int) -> str:
    """table3…_seed_0: the ends tell more than the middle."""
    if len(name) <= width:
        return name
    end = (width - 1) * 2 // 3
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"


def count(states: Any) -> str:
    """ "2 running, 1 failed, 17 waiting"."""
    listed = list(states)
    return ", ".join(f"{listed.count(s)} {s}" for s in STATES if s in listed)


def _result(line: Line) -> str:
    if line.state != "finished" or not line.progress.valid:
        return ""
    bleu = "" if line.progress.bleu is None else f", BLEU {line.progress.bleu:.1f}"
    return f": validation loss {line.progress.valid[-1][1]:.4f}{bleu}"
