"""One launcher's share of a sweep: it starts children, watches them, and records how they end."""

import collections
import contextlib
import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.console import log
from transformer_jax.errors import PREEMPTED_STATUS, UserError
from transformer_jax.sweeps import child, leases, progress, slots
from transformer_jax.sweeps.study import ENDED, Point, Study

SUMMARY = "sweep.json"
_POLL_EVERY = 0.1  # seconds; the children
_READ_EVERY = 1.0  # the study, which other launchers change, and the runs' metrics
_MOST_RESTARTS = 10  # of a child that is interrupted though nobody asked it to stop


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a runner runs.

    Attributes:
      workdir: of the sweep.
      workers: children at a time.
      command: the beginning of every child's command line; a point's overrides follow.
      arguments: the end of it.
      steps: of a point that does not set train.steps.
      about: the beginning of sweep.json.
      names: the points to run; None = all that the study has.
      suggest: adds a point, or returns False when there are enough; None = no points are added,
        and none is pruned.
    """

    workdir: Path
    workers: int
    command: Sequence[str]
    arguments: Sequence[str]
    steps: int
    about: dict[str, str]
    names: set[str] | None = None
    suggest: Callable[[], bool] | None = None

    def folder(self, point: Point) -> Path:
        """The workdir of a point."""
        return self.workdir / point.name

    def line(self, point: Point) -> list[str]:
        """The command that trains a point."""
        options = [f"--config.{name}={value}" for name, value in point.overrides.items()]
        own = [f"--workdir={self.folder(point)}", f"--config.name={point.name}", *options]
        return [*self.command, *own, *self.arguments]

    def steps_of(self, point: Point) -> int:
        """The steps that a point trains."""
        return point.overrides.get("train.steps", self.steps)


class Runner:
    """One launcher's share of a sweep."""

    def __init__(self, study: Study, plan: Plan) -> None:
        """Starts nothing yet."""
        self._study, self._plan = study, plan
        self._slots = slots.find(plan.workers)
        self._running: dict[str, tuple[Point, child.Child]] = {}
        self._restarts: collections.Counter[str] = collections.Counter()
        self._pruned: set[str] = set()
        self._lost: set[str] = set()
        self._progress: dict[str, progress.Progress] = {}
        self.table, self._written = progress.Table(), ""

    def run(self) -> int:
        """Runs until all points have ended, here or at another launcher's, or a signal comes.

        Returns:
          the exit status.
        """
        next_read = next_beat = 0.0
        passed_on = 0
        with _signals() as received:
            try:
                while True:
                    if self.collect():
                        next_read = 0.0
                    if len(received) > passed_on:
                        passed_on = len(received)
                        self._stop_all()
                    if time.monotonic() >= next_beat:
                        self._beat()
                        next_beat = time.monotonic() + leases.BEAT_EVERY
                    if time.monotonic() >= next_read:
                        points = self.update(start=not received)
                        next_read = time.monotonic() + _READ_EVERY
                        ended = all(point.state in ENDED for point in points)
                        if not self._running and (received or ended):
                            return self.summarize(points, interrupted=not ended)
                    time.sleep(_POLL_EVERY)
            finally:  # whatever ends this launcher: its children end with it
                self._stop_all()
                for _, process in self._running.values():
                    process.wait()

    def update(self, *, start: bool) -> list[Point]:
        """Starts children while there is room, prunes, and shows the table; returns the points."""
        points, suggest = self._points(), self._plan.suggest
        while start and len(self._running) < self._plan.workers:
            if not self._start_one(points) and not (suggest and suggest()):
                break
            points = self._points()
        for name, (point, process) in self._running.items() if suggest else ():
            if name not in self._lost and self._study.should_prune(
                point, self._progress_of(point).valid
            ):
                self._pruned.add(name)
                process.stop()
        self._write(points)
        lines = [
            progress.Line(p.name, p.state, self._plan.steps_of(p), self._progress_of(p))
            for p in points
        ]
        self.table.show(lines, {p.name: p.reason for p in points})
        return points

    def _points(self) -> list[Point]:
        points, names = self._study.points(), self._plan.names
        return [p for p in points if names is None or p.name in names]

    def _start_one(self, points: Sequence[Point]) -> bool:
        """Starts the first point that is free; returns False if none is."""
        for point in points:
            if point.state not in ("waiting", "interrupted") or not self._study.claim(point):
                continue
            environment = self._slots.take(point.name)
            folder = self._plan.folder(point)
            process = child.start(self._plan.line(point), folder, environment)
            if process is not None:
                self._running[point.name] = point, process
                return True
            # The child of a launcher that was killed is still saving.
            self._slots.give_back(point.name)
            self._study.end(point, "interrupted")
        return False

    def collect(self) -> bool:
        """Records the children that have ended in the study; returns whether any has."""
        ended = [
            name for name, (_, process) in self._running.items() if process.status() is not None
        ]
        for name in ended:
            point, process = self._running.pop(name)
            self._slots.give_back(name)
            if name in self._lost or self._study.beat([name]):
                self._lost.discard(name)
                continue
            self._study.add_seconds(point, process.lap())
            self._study.end(point, **self._outcome(point, process))
        return bool(ended)

    def _outcome(self, point: Point, process: child.Child) -> dict[str, Any]:
        """The state of a point whose child has ended, with its value or the reason."""
        status, valid = process.status(), self._progress_of(point).valid
        if status == 0 and valid and math.isfinite(valid[-1][1]):
            return {"state": "finished", "value": valid[-1][1]}
        if status == 0:
            reason = "it ended without a finite validation loss"
            return {"state": "failed", "reason": reason}
        if point.name in self._pruned:
            return {"state": "pruned"}
        if status not in child.INTERRUPTED:
            return {"state": "failed", "reason": process.reason()}
        self._restarts[point.name] += 1
        if self._restarts[point.name] > _MOST_RESTARTS:
            reason = f"it was interrupted {_MOST_RESTARTS} times: {process.reason()}"
            return {"state": "failed", "reason": reason}
        return {"state": "interrupted"}

    def _beat(self) -> None:
        """Renews the leases; a point that another launcher took over is left to it."""
        lost = self._study.beat([name for name in self._running if name not in self._lost])
        self._lost.update(lost)
        for name, (point, process) in self._running.items():
            if name in lost:
                process.stop()
            elif name not in self._lost:
                self._study.add_seconds(point, process.lap())

    def _stop_all(self) -> None:
        for _, process in self._running.values():
            process.stop()

    def summarize(self, points: Sequence[Point], *, interrupted: bool) -> int:
        """Logs how the sweep ended; returns the exit status."""
        counts = progress.count(point.state for point in points) or "no points"
        if interrupted:
            log(f"interrupted: {counts}; run the same command to resume")
            return PREEMPTED_STATUS
        failed = [point.name for point in points if point.state == "failed"]
        if failed:
            more = "a greater --sweep_trials adds others"
            again = more if self._plan.suggest else "the same command tries them again"
            for point in points:
                if self.table.live and point.state == "failed":  # else it was logged before
                    log(f"{point.name}: failed: {point.reason}")
            log(
                f"error: {len(failed)} of {len(points)} points failed: {', '.join(failed)}; "
                f"{child.LOG} in their workdirs shows why, and {again}"
            )
            return 1
        finished = [point for point in points if point.state == "finished"]
        best = min(finished, key=lambda p: p.value, default=None)
        least = f"; the least validation loss is {best.value:.4f}, of {best.name}" if best else ""
        log(f"{counts}{least}")
        return 0

    def _progress_of(self, point: Point) -> progress.Progress:
        if point.name not in self._progress:
            steps = self._plan.steps_of(point)
            self._progress[point.name] = progress.Progress(self._plan.folder(point), steps)
        self._progress[point.name].refresh()
        return self._progress[point.name]

    def _write(self, points: Sequence[Point]) -> None:
        """Writes sweep.json as a whole, if it changed."""
        fields = ("name", "overrides", "state", "value", "reason")
        listed = [
            {name: getattr(point, name) for name in fields}
            | {"workdir": point.name, "seconds": round(point.seconds, 1)}
            for point in points
        ]
        content = self._plan.about | {"points": listed}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        if text == self._written:
            return
        # The temporary file of write_whole has one name, and another launcher may be writing.
        path = self._plan.workdir / SUMMARY
        temporary = path.with_name(f"{SUMMARY}.{os.getpid()}")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        except OSError as e:
            raise UserError(f"cannot write {path}: {e.strerror}") from None
        self._written = text


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM only add their number to this list."""
    received: list[int] = []
    handler: Callable[[int, Any], None] = lambda number, _: received.append(number)  # noqa: E731
    before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, old)
