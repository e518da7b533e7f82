"""That an interrupted run ends where an uninterrupted one does: what `--mode=verify_resume` does.

The experiment is trained twice by the launcher itself: once whole, and once with SIGKILL at seeded
places (between steps, inside a save, while starting), each time started again by the same line.
Then the last checkpoints are compared bit for bit.

On other devices rounding differs. What is promised is the first loss after each change of devices,
given the parameters that it begins with. Those are the uninterrupted run's before the first change
alone. But a run that is killed has made steps after its last checkpoint, and the next start makes
them again: the first of them, on the devices before and on those after, is what is compared. A run
that was killed before it made one is started once more on its devices, until it has.
"""

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from transformer_jax.config.options import Config
from transformer_jax.console import log
from transformer_jax.errors import UserError
from transformer_jax.parallel.host import signals_interrupt
from transformer_jax.storage import write_whole
from transformer_jax.workdir import manifest
from transformer_jax.workdir.manifest import FOLDER
from transformer_jax.workdir.metrics import METRICS_FILE, read_metrics

# In turn, so that every other kill but one is between steps.
_PLACES = ("step", "save", "step", "start")
_LOSS_TOLERANCE = 1e-5  # nats per token, of the first loss on another number of devices
_PATIENCE = 3600.0  # seconds without a word of a run


@dataclasses.dataclass(frozen=True)
class Proof:
    """What came of it: for a person, and whether what was promised holds."""

    text: str
    passed: bool


def prove(
    config: Config,
    command: Sequence[str],
    folder: Path,
    *,
    kills: int,
    devices: Sequence[int] = (),
) -> Proof:
    """Trains whole and with interruptions, and compares.

    Args:
      config: the experiment; its seed decides where the kills are.
      command: what a run is started by, without --mode and --workdir.
      folder: does not exist; gets the workdirs `whole` and `interrupted`, and proof.json.
      kills: how many.
      devices: numbers of CPU devices that the starts get in turn; () = the devices that are there.

    Raises:
      UserError: if the folder exists, there are too few steps, or a run fails or hangs by itself.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: remove it, or choose another --workdir")
    if config.train.steps <= kills:
        raise UserError(
            f"--kills={kills} needs more than {kills} steps, and train.steps={config.train.steps}"
        )
    if len(set(devices)) > len(set(devices[: kills + 1])) == 1:
        raise UserError(
            f"--kills={kills} makes {kills + 1} starts, and in --verify_devices="
            f"{','.join(map(str, devices))} another number comes after that: give more kills"
        )
    whole, interrupted = folder / "whole", folder / "interrupted"
    started = time.monotonic()
    with signals_interrupt():
        with _Run(command, whole, devices[:1]) as run:
            _wait(run, run.has_begun, "its first step")
            startup = time.monotonic() - started  # seconds
            _run_to_end(run)
            starts = [run.made()]
        seconds = time.monotonic() - started
        lines = [f"uninterrupted: {config.train.steps} steps, {seconds:.0f} s in all"]
        log(lines[-1])
        rng = np.random.default_rng(config.seed)
        for number in range(kills + 1):
            here = [devices[number % len(devices)]] if devices else []
            if here:
                lines += _repeatable(command, interrupted, starts, here[0])
            with _Run(command, interrupted, here) as run:
                if number == kills:
                    _run_to_end(run)
                else:
                    target = round(config.train.steps * (number + 0.5) / (kills + 1))
                    where = _kill(run, _PLACES[number % len(_PLACES)], target, startup, rng)
                    lines.append(f"kill {number + 1}: {where}")
                    log(lines[-1])
                starts.append(run.made())
    states = [last_state(workdir) for workdir in (whole, interrupted)]
    differences, arrays = differing_arrays(*states), len(states[0])
    told, passed = judge(starts, losses_apart(whole, interrupted), same_state=not differences)
    lines += told
    lines.append(
        f"parameters and optimiser state: {arrays - len(differences)} of {arrays} arrays are the "
        "same bit for bit"
    )
    lines += [f"  {name} differs by up to {by:.1e}" for name, by in differences[:10]]
    lines.append("passed" if passed else "FAILED")
    report = {"passed": passed, "kills": kills, "devices": list(devices), "report": lines}
    write_whole(folder / "proof.json", json.dumps(report, indent=2) + "\n")
    return Proof("\n".join(lines), passed)


@dataclasses.dataclass(frozen=True)
class Start:
    """What one start of the launcher did.

    Attributes:
      devices: how many it had; 0 = those that are there.
      first_step: the step of the checkpoint that it went on from; 0 = none.
      losses: of the steps that it made, in nats per token; None = not finite.
    """

    devices: int
    first_step: int
    losses: dict[int, float | None]


@dataclasses.dataclass(frozen=True)
class Change:
    """The first step on other devices, and how far its loss is from that on those before."""

    step: int
    before: int
    after: int
    apart: float


def judge(
    starts: Sequence[Start], apart: Sequence[float], *, same_state: bool
) -> tuple[list[str], bool]:
    """Lines that say what the losses are, and whether all is as it was promised.

    Args:
      starts: the uninterrupted run, and those of the interrupted one.
      apart: see `losses_apart`; of step 1 and all after it.
      same_state: whether the two ended in the same state, bit for bit.
    """
    if len({start.devices for start in starts}) == 1:
        same = max(apart, default=0.0) == 0
        line = f"losses of {len(apart)} steps: {'the same' if same else 'differ'}"
        return [line], same and same_state
    found = changes(starts)
    if not found:
        return ["no step was made on other devices than the first: give more --kills"], False
    lines = [
        f"step {c.step}, devices {c.before} → {c.after}: with the same parameters its loss differs "
        f"by {c.apart:.1e}"
        for c in found
    ]
    first = found[0].step - 1
    before, after = apart[:first], apart[first:]
    stay = next((n for n, by in enumerate(after) if by > _LOSS_TOLERANCE), len(after))
    # Learning magnifies what rounding began with, how fast depends on the experiment.
    lines.append(
        f"after step {first}, on other devices, the losses are within {_LOSS_TOLERANCE:.0e} of the "
        f"uninterrupted run's for {stay} of {len(after)} steps; the largest difference of all "
        f"these steps is {max(after, default=0.0):.1e}"
    )
    kept = all(change.apart <= _LOSS_TOLERANCE for change in found)
    return lines, kept and max(before, default=0.0) == 0


def changes(starts: Sequence[Start]) -> list[Change]:
    """Each start that made a step on other devices than those its checkpoint was made on."""
    found = []
    for number, start in enumerate(starts):
        step, earlier = start.first_step + 1, starts[:number]
        if step not in start.losses or not earlier:
            continue
        other = _that_made(earlier, step, start.devices)
        if other is not None:
            apart = _apart(other.losses[step], start.losses[step])
            found.append(Change(step, other.devices, start.devices, apart))
        elif (writer := _since_checkpoint(earlier, step - 1)[0]).devices != start.devices:
            found.append(Change(step, writer.devices, start.devices, math.inf))
    return found


def _since_checkpoint(starts: Sequence[Start], step: int) -> Sequence[Start]:
    """The start that wrote the last checkpoint, which is of `step`, and those after it.

    Those went on from it. If there is none (0), all of them began with the same parameters.
    """
    return starts[max((n for n, start in enumerate(starts) if step in start.losses), default=0) :]


def _that_made(starts: Sequence[Start], step: int, devices: int) -> Start | None:
    """The last that made `step` on another number of devices from the last checkpoint's state."""
    made = [s for s in _since_checkpoint(starts, step - 1) if step in s.losses]
    return next((s for s in reversed(made) if s.devices != devices), None)


def _repeatable(
    command: Sequence[str], workdir: Path, starts: list[Start], devices: int
) -> list[str]:
    """Sees to it that a start on `devices` makes a step again, if its checkpoint is of others.

    Adds to `starts` those that it needs for that, and returns lines that say so.
    """
    lines = []
    while True:
        last = max(manifest.complete(workdir / FOLDER), default=0)
        writer = _since_checkpoint(starts, last)[0]
        if writer.devices == devices or _that_made(starts, last + 1, devices):
            return lines
        with _Run(command, workdir, [writer.devices]) as run:
            _wait(run, run.has_begun, "its first step")
            _wait(run, lambda: run.step() > last, f"step {last + 1}")  # noqa: B023
            where = _end(run)
            starts.append(run.made())
        lines.append(f"devices {writer.devices} once more, for a step to compare: killed {where}")
        log(lines[-1])


class _Run:
    """One start of the launcher in a workdir, and what can be seen of it from outside."""

    def __init__(self, command: Sequence[str], workdir: Path, devices: Sequence[int]) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if devices:
            flag = f"--xla_force_host_platform_device_count={devices[0]}"
            environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag}
        self.workdir, self.devices = workdir, list(devices)
        self.log = workdir / "log.txt"
        with self.log.open("a") as log:
            self._from = log.tell()
            self.process = subprocess.Popen(
                [*command, "--mode=train", f"--workdir={workdir}", "--config.train.log_every=1"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()  # or it would go on when the proof ends early
        self.process.wait()

    def said(self) -> str:
        """What it wrote to its standard output and error so far."""
        return self.log.read_bytes()[self._from :].decode(errors="replace")

    def last_line(self) -> str:
        """The last of what it said; "" if nothing."""
        return "".join(self.said().strip().splitlines()[-1:])

    def has_begun(self) -> bool:
        """Whether its text is read and its state restored."""
        return " parameters, " in self.said()

    def made(self) -> Start:
        """What it has made, once it has ended."""
        said = self.said()
        found = re.search(r"resuming from step (\d+)", said)
        # metrics.jsonl may still hold steps of an earlier start, if this one ended early.
        own = set(map(int, re.findall(r"^step (\d+)/", said, re.MULTILINE)))
        losses = {step: loss for step, loss in _losses(self.workdir).items() if step in own}
        return Start(sum(self.devices), int(found[1]) if found else 0, losses)

    def step(self) -> int:
        """The last step in metrics.jsonl; one that an earlier start left there counts, too."""
        path = self.workdir / METRICS_FILE
        if not path.exists():
            return 0
        with path.open("rb") as file:  # its end alone: this is asked a thousand times a second
            file.seek(max(0, path.stat().st_size - 4096))
            complete = file.read().split(b"\n")[:-1]
        return json.loads(complete[-1])["step"] if complete else 0

    def saving(self) -> bool:
        """Whether a checkpoint is being written at this moment."""
        folder = self.workdir / FOLDER
        return folder.exists() and not all(map(manifest.exists, folder.iterdir()))


def _run_to_end(run: _Run) -> None:
    if run.process.wait() != 0:
        raise UserError(f"the run in {run.workdir} failed by itself: {run.last_line()}")


def _kill(run: _Run, place: str, target: int, startup: float, rng: np.random.Generator) -> str:
    """Kills a run at a place, at `target` steps or later; says where that was."""
    if place == "start":
        time.sleep(rng.uniform(0, startup))
    else:
        _wait(run, run.has_begun, "its first step")
        _wait(run, lambda: run.step() >= target, f"step {target}")
        if place == "save":
            _wait(run, run.saving, "a save")
            time.sleep(rng.exponential(0.002))
        else:
            time.sleep(rng.exponential(0.05))
            _wait(run, lambda: not run.saving(), "the end of a save")
    return _end(run)


def _end(run: _Run) -> str:
    """Kills a run; says where that was."""
    if run.process.poll() is not None:
        raise UserError(
            f"the run in {run.workdir} ended with status {run.process.returncode} before it could "
            f"be killed, and said {run.last_line()!r}: if it was done, give more "
            "--config.train.steps, or fewer --kills"
        )
    saving, begun = run.saving(), run.has_begun()
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    where = "while starting" if not begun else "inside a save" if saving else "between saves"
    return f"{where}, after step {run.step()}"


def _wait(run: _Run, there: Callable[[], bool], place: str) -> None:
    """Until a run is there, or has ended.

    Raises:
      UserError: if it has stopped writing before that.
    """
    deadline, size = time.monotonic() + _PATIENCE, 0
    while not there() and run.process.poll() is None:
        if size != (size := run.log.stat().st_size):
            deadline = time.monotonic() + _PATIENCE
        elif time.monotonic() > deadline:
            raise UserError(
                f"the run in {run.workdir} has not come to {place}, and has written nothing for "
                f"{_PATIENCE:.0f} s: see {run.log}"
            )
        time.sleep(0.001)


def _losses(workdir: Path) -> dict[int, float | None]:
    """The training loss of each step; None = not finite."""
    rows = read_metrics(workdir / METRICS_FILE)
    return {row["step"]: row["train"]["loss"] for row in rows if "train" in row}


def _apart(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    return abs(a - b)


def losses_apart(a: Path, b: Path) -> list[float]:
    """How far the losses of each step are apart, in nats per token.

    Raises:
      UserError: if the two did not make the same steps.
    """
    first, second = _losses(a), _losses(b)
    if list(first) != list(second):
        raise UserError(f"{a} and {b} did not make the same steps once and in order")
    return [_apart(first[step], second[step]) for step in first]


def last_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, by its path.

    Raises:
      UserError: if there is none.
    """
    folder = (workdir / FOLDER).absolute()
    steps = manifest.complete(folder)
    if not steps:
        raise UserError(f"{folder} has no complete checkpoint, so there is nothing to compare")
    folder /= str(steps[-1])
    state: dict[str, np.ndarray] = {}
    with ocp.PyTreeCheckpointer() as checkpointer:
        for item in ("params", "optimizer"):
            tree = checkpointer.restore(folder / item)
            for path, array in jax.tree_util.tree_leaves_with_path(tree):
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                state[f"{item}/{name}"] = np.asarray(array)
    return state


def differing_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[tuple[str, float]]:
    """The names of the arrays whose bits differ, with the largest difference of their numbers.

    Raises:
      UserError: if the two do not have the same arrays.
    """
    if a.keys() != b.keys():
        raise UserError(f"the two states differ in what they hold: {sorted(a.keys() ^ b.keys())}")
    differ = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    return [(name, float(np.max(np.abs(a[name] - b[name])))) for name in differ]
