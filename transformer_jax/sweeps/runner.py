"""One launcher's share of a sweep: it starts children, watches them, and records how they end."""

import collections
import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.console import log
from transformer_jax.errors import PREEMPTED_STATUS
from transformer_jax.sweeps import child, leases, progress, slots, summary
from transformer_jax.sweeps.study import Study
from transformer_jax.sweeps.summary import ENDED, SUMMARY, Point
from transformer_jax.workdir import manifest

_POLL_EVERY = 0.1  # seconds; the children
_READ_EVERY = 1.0  # seconds; the study, which other launchers change, and the metrics of the runs


@dataclasses.dataclass
class _Run:
    """A point in training."""

    point: Point
    child: child.Child
    pruned: bool = False  # it was stopped, because its losses are worse than the median
    lost: bool = False  # another launcher has taken the point over


@dataclasses.dataclass
class Runner:
    """One launcher's share of a sweep.

    Attributes:
      study: holds the points.
      workdir: the sweep's; a point's is the folder in it of the point's name.
      workers: the number of children at a time.
      command: returns the command that trains a point.
      steps: returns the number of steps that a point trains.
      about: the first entries of sweep.json.
      names: the points to run; None = every point of the study.
      suggest: adds a point, or returns False if there are enough; None = points are neither added
        nor pruned.
      restarts: how often a point may be interrupted, by others than this launcher, without writing
        a checkpoint; then it fails.
    """

    study: Study
    workdir: Path
    workers: int
    command: Callable[[Point], list[str]]
    steps: Callable[[Point], int]
    about: dict[str, str]
    names: set[str] | None = None
    suggest: Callable[[], bool] | None = None
    restarts: int = 10

    def __post_init__(self) -> None:
        self._slots = slots.find(self.workers)
        self._runs: dict[str, _Run] = {}
        # How often each point was interrupted while its last checkpoint was of each step.
        self._restarts: collections.Counter[tuple[str, int]] = collections.Counter()
        self._table = progress.Table()
        self._progress: dict[str, progress.Progress] = {}

    def run(self) -> int:
        """Runs until a signal comes, or all points have ended, here or at other launchers.

        Returns:
          the exit status.
        """
        next_read = next_beat = 0.0
        passed_on = 0
        with _signals() as received, contextlib.ExitStack() as end:
            end.callback(self._end_children)
            while True:
                if self.collect():
                    next_read = 0.0
                if len(received) > passed_on:
                    passed_on = len(received)
                    self._stop_children()
                if time.monotonic() >= next_beat:
                    self._beat()
                    next_beat = time.monotonic() + leases.BEAT_EVERY
                if time.monotonic() >= next_read:
                    points = self.update(start=not received)
                    next_read = time.monotonic() + _READ_EVERY
                    ended = all(point.state in ENDED for point in points)
                    if not self._runs and (received or ended):
                        return self._conclude(points, interrupted=not ended)
                time.sleep(_POLL_EVERY)

    def update(self, *, start: bool) -> list[Point]:
        """Starts children if `start`, prunes, and reports; returns the points."""
        points, suggest = self._points(), self.suggest
        while start and len(self._runs) < self.workers:
            if not self._start_one(points) and not (suggest and suggest()):
                break
            points = self._points()
        if suggest:
            self._prune()
        summary.write(self.workdir / SUMMARY, self.about, points)
        self._table.show([(point, self._progress_of(point)) for point in points])
        return points

    def collect(self) -> bool:
        """Records the children that have ended in the study; returns whether any has."""
        ended = [run for run in self._runs.values() if run.child.poll() is not None]
        for run in ended:
            del self._runs[run.point.name]
            self._slots.give_back(run.point.name)
            if not run.lost and not self.study.leases.beat([run.point.name]):
                self.study.end(run.point, **self._outcome(run))
        return bool(ended)

    def _points(self) -> list[Point]:
        points, names = self.study.points(), self.names
        return [p for p in points if names is None or p.name in names]

    def _start_one(self, points: Sequence[Point]) -> bool:
        """Starts the first point that is free; returns False if none is."""
        for point in points:
            if point.state not in ("waiting", "interrupted") or not self.study.claim(point):
                continue
            folder, environment = self.workdir / point.name, self._slots.take(point.name)
            process = child.start(self.command(point), folder, environment)
            if process is not None:
                self._runs[point.name] = _Run(point, process)
                return True
            # The child of a launcher that was killed is still saving.
            self._slots.give_back(point.name)
            self.study.end(point, "interrupted")
        return False

    def _prune(self) -> None:
        for run in self._runs.values():
            valid = self._progress_of(run.point).valid
            if not run.lost and self.study.should_prune(run.point, valid):
                run.pruned = True
                run.child.terminate()

    def _outcome(self, run: _Run) -> dict[str, Any]:
        """The state of a point whose child has ended, with its value or the reason."""
        status = run.child.poll()
        loss = self._progress_of(run.point).validation.get("loss")
        if status == 0 and loss is not None and math.isfinite(loss):
            return {"state": "finished", "value": loss}
        if status == 0:
            return {"state": "failed", "reason": "it ended without a finite validation loss"}
        if run.pruned:
            return {"state": "pruned"}
        if status not in child.INTERRUPTED:
            return {"state": "failed", "reason": run.child.reason()}
        saved = manifest.complete(self.workdir / run.point.name / manifest.FOLDER)
        last = run.point.name, max(saved, default=0)
        self._restarts[last] += 1
        if self._restarts[last] <= self.restarts:
            return {"state": "interrupted"}
        times = f"interrupted {self._restarts[last]} times without a new checkpoint"
        return {"state": "failed", "reason": f"{times}: {run.child.reason()}"}

    def _beat(self) -> None:
        """Renews the leases; stops the children of points that another launcher has taken over."""
        for name in self.study.leases.beat([n for n, run in self._runs.items() if not run.lost]):
            self._runs[name].lost = True
            self._runs[name].child.stop()

    def _stop_children(self) -> None:
        for run in self._runs.values():
            run.child.terminate()

    def _end_children(self) -> None:
        self._stop_children()
        for run in self._runs.values():
            run.child.wait()

    def _conclude(self, points: Sequence[Point], *, interrupted: bool) -> int:
        if interrupted:
            log(f"interrupted: {summary.count(points)}; run the same command to resume")
            return PREEMPTED_STATUS
        for line in summary.conclude(points, search=self.suggest is not None):
            log(line)
        return int(any(point.state == "failed" for point in points))

    def _progress_of(self, point: Point) -> progress.Progress:
        """What the point has logged so far."""
        if point.name not in self._progress:
            folder = self.workdir / point.name
            self._progress[point.name] = progress.Progress(folder, self.steps(point))
        self._progress[point.name].refresh()
        return self._progress[point.name]


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
