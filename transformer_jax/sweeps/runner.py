"""One launcher's part of a sweep: it starts children, watches them, and tells the study."""

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.errors import PREEMPTED_STATUS, UserError
from transformer_jax.sweeps import child, leases, progress
from transformer_jax.sweeps.study import ENDED, Point, Study
from transformer_jax.workdir import manifest

SUMMARY = "sweep.json"
_POLL_EVERY = 0.1  # seconds; the children
_READ_EVERY = 1.0  # the study, which other launchers change, and the runs' metrics


class Runner:
    """See `run`."""

    def __init__(
        self,
        study: Study,
        workdir: Path,
        *,
        workers: int,
        command: Sequence[str],
        arguments: Sequence[str],
        steps: int,
        about: dict[str, str],
        names: set[str] | None,
        suggest: Callable[[], bool] | None,
        lanes: int = 1,
        programs: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
          study: has the points.
          workdir: of the sweep.
          workers: children at a time.
          command: what every child's begins with; a point's overrides come next.
          arguments: what it ends with.
          steps: of a point that does not say.
          about: what sweep.json begins with.
          names: the points to run; None = all that the study has.
          suggest: adds a point, or returns False: there are enough. None = no more are added, and
            none is pruned.
          lanes: points that one child trains together, at most.
          programs: of each point, by name, if `lanes` is more than 1; see programs.py.
        """
        self._study, self._workdir, self._workers = study, workdir, workers
        self._command, self._arguments, self._steps = command, arguments, steps
        self._about, self._names, self._suggest = about, names, suggest
        self._lanes, self._programs = lanes, programs or {}
        self._running: dict[str, tuple[Point, child.Child]] = {}
        self._pruned: set[str] = set()
        self._lost: set[str] = set()
        self._progress: dict[str, progress.Progress] = {}
        self._table, self._written = progress.Table(), ""

    def run(self) -> int:
        """Until all points have ended, here or at another launcher's, or a signal comes.

        Returns:
          the exit status.
        """
        next_read = next_beat = 0.0
        passed_on = 0
        with _signals() as received:
            try:
                while True:
                    if self._reap():
                        next_read = 0.0
                    if len(received) > passed_on:
                        passed_on = len(received)
                        self._stop_all()
                    if time.monotonic() >= next_beat:
                        self._beat()
                        next_beat = time.monotonic() + leases.BEAT_EVERY
                    if time.monotonic() >= next_read:
                        points = self._update(start=not received)
                        next_read = time.monotonic() + _READ_EVERY
                        ended = all(point.state in ENDED for point in points)
                        if not self._running and (received or ended):
                            return self._last_words(points, interrupted=not ended)
                    time.sleep(_POLL_EVERY)
            finally:  # of what ends this launcher: its children end with it
                self._stop_all()
                for process in self._children():
                    process.wait()

    def _update(self, *, start: bool) -> list[Point]:
        """Starts what there is room for, prunes, and shows how things are."""
        points = self._points()
        while start and len(self._children()) < self._workers:
            if not self._start_some(points) and not (self._suggest and self._suggest()):
                break
            points = self._points()
        for name, (point, process) in self._running.items() if self._suggest else ():
            if name not in self._lost and self._study.should_prune(
                point, self._progress_of(point).valid
            ):
                self._pruned.add(name)
                process.stop()
        self._write(points)
        lines = [
            progress.Line(p.name, p.state, self._steps_of(p), self._progress_of(p)) for p in points
        ]
        self._table.show(lines, {p.name: p.reason for p in points})
        return points

    def _points(self) -> list[Point]:
        points = self._study.points()
        return [p for p in points if self._names is None or p.name in self._names]

    def _start_some(self, points: Sequence[Point]) -> bool:
        """Starts the first point that is free, with others for lanes; False if none is."""
        free = [point for point in points if point.state in ("waiting", "interrupted")]
        for point in free:
            if not self._study.claim(point):
                continue
            claimed = [point]
            for other in self._companions(point, free):
                if len(claimed) < self._lanes and self._study.claim(other):
                    claimed.append(other)
            folders = [self._folder(each) for each in claimed]
            process = child.start(self._line(claimed), folders)
            for each in claimed:
                if process is None:  # the child of a launcher that was killed is still saving
                    self._study.end(each, "interrupted")
                else:
                    self._running[each.name] = each, process
            if process is not None:
                return True
        return False

    def _companions(self, point: Point, free: Sequence[Point]) -> list[Point]:
        """Those of `free` that can be lanes beside `point`.

        Lanes go on from a step that all of them have: no point loses more than one save by it.
        """
        if self._lanes == 1:
            return []
        program = self._programs[point.name]
        near = program["train.checkpoint_every"]
        return [
            other
            for other in free
            if other is not point
            and self._programs[other.name] == program
            and abs(self._saved(other) - self._saved(point)) <= near
        ]

    def _saved(self, point: Point) -> int:
        return max(manifest.complete(self._folder(point) / manifest.FOLDER), default=0)

    def _line(self, points: Sequence[Point]) -> list[str]:
        """What trains them."""
        if len(points) > 1:
            names = ",".join(point.name for point in points)
            own = [f"--workdir={self._workdir}", f"--sweep_lanes={names}"]
        else:
            (point,) = points
            options = [f"--config.{name}={value}" for name, value in point.overrides.items()]
            own = [f"--workdir={self._folder(point)}", f"--config.name={point.name}", *options]
        return [*self._command, *own, *self._arguments]

    def _folder(self, point: Point) -> Path:
        return self._workdir / point.name

    def _children(self) -> set[child.Child]:
        return {process for _, process in self._running.values()}

    def _reap(self) -> bool:
        """Tells the study of the children that have ended; whether any has."""
        ended = {}
        for name, (point, process) in self._running.items():
            status = process.status(self._folder(point))
            if status is not None:
                ended[name] = status
        for name, status in ended.items():
            point, process = self._running.pop(name)
            if name in self._lost or self._study.beat([name]):
                self._lost.discard(name)
                continue
            self._study.add_seconds(point, process.lap(self._folder(point)))
            valid = self._progress_of(point).valid
            if status == 0 and valid and math.isfinite(valid[-1][1]):
                self._study.end(point, "finished", value=valid[-1][1])
            elif status == 0:
                self._study.end(point, "failed", reason="it ended without a finite validation loss")
            elif name in self._pruned:
                self._study.end(point, "pruned")
            elif status in child.INTERRUPTED:
                self._study.end(point, "interrupted")
            else:
                self._study.end(point, "failed", reason=process.reason(self._folder(point)))
        return bool(ended)

    def _beat(self) -> None:
        """Signs of life; a point that another launcher took for dead is left to it."""
        lost = self._study.beat([name for name in self._running if name not in self._lost])
        self._lost.update(lost)
        for process in {self._running[name][1] for name in lost}:
            process.stop()
        for name, (point, process) in self._running.items():
            if name not in self._lost:
                self._study.add_seconds(point, process.lap(self._folder(point)))

    def _stop_all(self) -> None:
        for process in self._children():  # each once: a second signal ends it at once
            process.stop()

    def _last_words(self, points: Sequence[Point], *, interrupted: bool) -> int:
        if interrupted:
            progress.say(
                f"interrupted: {progress.count(p.state for p in points)}; the same line goes on"
            )
            return PREEMPTED_STATUS
        failed = [point.name for point in points if point.state == "failed"]
        if failed:
            more = "a greater --sweep_trials adds others"
            again = more if self._suggest else "the same line tries them again"
            for point in points:
                if self._table.live and point.state == "failed":  # elsewhere it was said
                    progress.say(f"{point.name}: failed: {point.reason}")
            progress.say(
                f"error: {len(failed)} of {len(points)} points failed: {', '.join(failed)}; "
                f"{child.LOG} in their workdirs says why, and {again}"
            )
            return 1
        finished = [point for point in points if point.state == "finished"]
        said = progress.count(point.state for point in points) or "no points"
        if finished:
            best = min(finished, key=lambda p: p.value)
            said += f"; the least validation loss is {best.value:.4f}, {best.name}'s"
        progress.say(said)
        return 0

    def _steps_of(self, point: Point) -> int:
        return point.overrides.get("train.steps", self._steps)

    def _progress_of(self, point: Point) -> progress.Progress:
        if point.name not in self._progress:
            steps = self._steps_of(point)
            self._progress[point.name] = progress.Progress(self._folder(point), steps)
        self._progress[point.name].refresh()
        return self._progress[point.name]

    def _write(self, points: Sequence[Point]) -> None:
        """sweep.json, whole, if it changed."""
        listed = [
            {
                "name": point.name,
                "overrides": point.overrides,
                "state": point.state,
                "value": point.value,
                "workdir": point.name,
                "seconds": round(point.seconds, 1),
                "reason": point.reason,
            }
            for point in points
        ]
        text = json.dumps(self._about | {"points": listed}, indent=2, ensure_ascii=False) + "\n"
        if text == self._written:
            return
        # config.write_whole's temporary file has one name, and another launcher may be writing.
        temporary = self._workdir / f"{SUMMARY}.{os.getpid()}"
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self._workdir / SUMMARY)
        except OSError as e:
            raise UserError(f"cannot write {self._workdir / SUMMARY}: {e.strerror}") from None
        self._written = text


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Within the block SIGINT and SIGTERM do nothing but add to this list."""
    received: list[int] = []
    handler: Callable[[int, Any], None] = lambda number, _: received.append(number)  # noqa: E731
    before = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, old)
