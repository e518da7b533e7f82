"""That an interrupted run ends where an uninterrupted one does: what `--mode=verify_resume` does.

The experiment is trained twice by the launcher itself: once whole, and once with SIGKILL at seeded
places (between steps, inside a save, while starting), each time started again by the same line.
Then the last checkpoints are compared bit for bit.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from transformer_jax import manifest, records
from transformer_jax.checkpoint import FOLDER, complete_steps
from transformer_jax.config import Config, UserError, write_whole
from transformer_jax.records import METRICS_FILE
from transformer_jax.tracking import say

# In turn, so that every other kill but one is between steps.
_PLACES = ("step", "save", "step", "start")
_LOSS_TOLERANCE = 1e-5  # nats per token, of the first loss on another number of devices
_PATIENCE = 3600.0  # seconds until a kill's place is reached


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
      UserError: if the folder exists, there are too few steps, or a run fails by itself.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: remove it, or choose another --workdir")
    if config.train.steps <= kills:
        raise UserError(
            f"--kills={kills} needs more than {kills} steps, and train.steps={config.train.steps}"
        )
    rng = np.random.default_rng(config.seed)
    whole, interrupted = folder / "whole", folder / "interrupted"
    started = time.monotonic()
    run = _Run(command, whole, devices[:1])
    _wait(run, run.has_begun)
    startup = time.monotonic() - started  # seconds
    _run_to_end(run)
    seconds = time.monotonic() - started
    lines = [f"uninterrupted: {config.train.steps} steps, {seconds:.0f} s in all"]
    say(lines[-1])
    runs = []
    for number in range(kills + 1):
        here = [devices[number % len(devices)]] if devices else []
        runs.append(_Run(command, interrupted, here))
        if number == kills:
            _run_to_end(runs[-1])
            break
        target = round(config.train.steps * (number + 0.5) / (kills + 1))
        where = _kill(runs[-1], _PLACES[number % len(_PLACES)], target, startup, rng)
        lines.append(f"kill {number + 1}: {where}")
        say(lines[-1])
    states = [last_state(workdir) for workdir in (whole, interrupted)]
    differences, arrays = differing_arrays(*states), len(states[0])
    apart = losses_apart(whole, interrupted)
    elsewhere = [run.first_step for run in runs if run.devices != runs[0].devices]
    if elsewhere:
        first = elsewhere[0]
        after = apart[first:]
        stay = next((n for n, by in enumerate(after) if by > _LOSS_TOLERANCE), len(after))
        # With the same parameters, data and masks the first loss is the same but for rounding.
        # Learning then magnifies that, how fast depends on the experiment.
        passed = max(apart[:first], default=0) == 0 and stay > 0
        lines.append(
            f"devices {', '.join(map(str, devices))} in turn: from step {first}, on others, the "
            f"losses differ by at most {_LOSS_TOLERANCE:.0e} for {stay} of {len(after)} steps, and "
            f"by {max(after):.1e} in the end at most"
        )
    else:
        passed = not differences and max(apart) == 0
        lines.append(f"losses of {len(apart)} steps: {'the same' if max(apart) == 0 else 'differ'}")
    lines.append(
        f"parameters and optimiser state: {arrays - len(differences)} of {arrays} arrays are the "
        "same bit for bit"
    )
    lines += [f"  {name} differs by up to {by:.1e}" for name, by in differences[:10]]
    lines.append("passed" if passed else "FAILED")
    report = {"passed": passed, "kills": kills, "devices": list(devices), "report": lines}
    write_whole(folder / "proof.json", json.dumps(report, indent=2) + "\n")
    return Proof("\n".join(lines), passed)


class _Run:
    """One start of the launcher in a workdir, and what can be seen of it from outside."""

    def __init__(self, command: Sequence[str], workdir: Path, devices: Sequence[int]) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if devices:
            flag = f"--xla_force_host_platform_device_count={devices[0]}"
            environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag}
        self.workdir, self.devices = workdir, list(devices)
        self._log = workdir / "log.txt"
        with self._log.open("a") as log:
            self._from = log.tell()
            self.process = subprocess.Popen(
                [*command, "--mode=train", f"--workdir={workdir}", "--config.train.log_every=1"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def said(self) -> str:
        """What it wrote to its standard output and error so far."""
        return self._log.read_bytes()[self._from :].decode(errors="replace")

    def has_begun(self) -> bool:
        """Whether its text is read and its state restored."""
        return " parameters, " in self.said()

    @property
    def first_step(self) -> int:
        """The step of the checkpoint that it goes on from; 0 = none."""
        found = re.search(r"goes on from step (\d+)", self.said())
        return int(found[1]) if found else 0

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
        last = run.said().strip().splitlines()[-1:]
        raise UserError(f"the run in {run.workdir} failed by itself: {''.join(last)}")


def _kill(run: _Run, place: str, target: int, startup: float, rng: np.random.Generator) -> str:
    """Kills a run at a place, at `target` steps or later; says where that was."""
    if place == "start":
        time.sleep(rng.uniform(0, startup))
    else:
        _wait(run, run.has_begun)
        _wait(run, lambda: run.step() >= target)
        if place == "save":
            _wait(run, run.saving)
            time.sleep(rng.exponential(0.002))
        else:
            time.sleep(rng.exponential(0.05))
            _wait(run, lambda: not run.saving())
    if run.process.poll() is not None:
        raise UserError(
            f"the run in {run.workdir} ended with status {run.process.returncode} before it could "
            "be killed: give more --config.train.steps, or fewer --kills"
        )
    saving, begun = run.saving(), run.has_begun()
    run.process.send_signal(signal.SIGKILL)
    run.process.wait()
    where = "while starting" if not begun else "inside a save" if saving else "between saves"
    return f"{where}, after step {run.step()}"


def _wait(run: _Run, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not there() and run.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


def _losses(workdir: Path) -> dict[int, float]:
    """The training loss of each step."""
    rows = records.read(workdir / METRICS_FILE)
    return {row["step"]: row["train"]["loss"] for row in rows if "train" in row}


def losses_apart(a: Path, b: Path) -> list[float]:
    """How far the losses of each step are apart, in nats per token.

    Raises:
      UserError: if the two did not make the same steps.
    """
    first, second = _losses(a), _losses(b)
    if list(first) != list(second):
        raise UserError(f"{a} and {b} did not make the same steps once and in order")
    return [abs(first[step] - second[step]) for step in first]


def last_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, by its path."""
    folder = (workdir / FOLDER).absolute()
    folder /= str(complete_steps(folder)[-1])
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
