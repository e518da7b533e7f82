"""The proof that an interrupted run ends exactly where an uninterrupted one does.

`--mode=verify_resume` trains an experiment twice, each time by the launcher itself: once without
interruption, and once with SIGKILL at seeded places (between steps, inside a save, during startup),
after each of which the same command is run again. Then the losses of all steps and the arrays of
the last checkpoints are compared bit for bit.
"""

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from transformer_jax.config.options import Config
from transformer_jax.console import log
from transformer_jax.errors import UserError
from transformer_jax.parallel import peers
from transformer_jax.parallel.host import signals_interrupt
from transformer_jax.storage import write_whole
from transformer_jax.workdir import manifest
from transformer_jax.workdir.manifest import FOLDER
from transformer_jax.workdir.metrics import METRICS_FILE, read_metrics

# In turn, so that every other kill is between steps.
_PLACES = ("step", "save", "step", "start")


@dataclasses.dataclass(frozen=True)
class Proof:
    """A report for the user, and whether the two runs are the same."""

    text: str
    passed: bool


def prove(config: Config, command: Sequence[str], folder: Path, *, kills: int) -> Proof:
    """Trains with and without interruptions, and compares the two runs.

    Args:
      config: the experiment; its seed decides where the kills are.
      command: starts a run, without --mode and --workdir.
      folder: does not exist; gets the workdirs `whole` and `interrupted`, and proof.json.
      kills: the number of interruptions.

    Raises:
      UserError: if the folder exists, there are too few steps, or a run fails by itself.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: remove it, or choose another --workdir")
    steps = config.train.steps
    if steps <= kills:
        raise UserError(f"--kills={kills} needs more than {kills} steps, and train.steps={steps}")
    whole, interrupted = folder / "whole", folder / "interrupted"
    lines, started = [], time.monotonic()

    def report(line: str) -> None:
        log(line)
        lines.append(line)

    with signals_interrupt():
        with _Run(command, whole) as run:
            run.wait_for(run.has_begun)
            startup = time.monotonic() - started  # seconds
            run.finish()
        report(f"uninterrupted: {steps} steps in {time.monotonic() - started:.0f} s")
        rng = np.random.default_rng(config.seed)
        for number in range(kills):
            with _Run(command, interrupted) as run:
                target = round(steps * (number + 0.5) / (kills + 1))
                where = _kill(run, _PLACES[number % len(_PLACES)], target, startup, rng)
                report(f"kill {number + 1}: {where}")
        with _Run(command, interrupted) as run:
            run.finish()
    differing, found = compare(whole, interrupted)
    lines += [*found, "FAILED" if differing else "passed"]
    content = {"passed": not differing, "kills": kills, "report": lines}
    write_whole(folder / "proof.json", json.dumps(content, indent=2) + "\n")
    return Proof("\n".join(lines), passed=not differing)


def compare(a: Path, b: Path) -> tuple[bool, list[str]]:
    """Whether two workdirs differ in a loss or an array of the last checkpoint, and a report.

    Raises:
      UserError: if they do not have the same steps and arrays.
    """
    losses = [_losses(workdir) for workdir in (a, b)]
    if list(losses[0]) != list(losses[1]):
        raise UserError(f"{a} and {b} did not make the same steps, each once and in order")
    same = losses[0] == losses[1]
    states = [last_state(workdir) for workdir in (a, b)]
    differences, number = differing_arrays(*states), len(states[0])
    return bool(differences) or not same, [
        f"losses of {len(losses[0])} steps: {'the same' if same else 'differ'}",
        f"parameters and optimiser state: {number - len(differences)} of {number} arrays are the "
        "same bit for bit",
        *(f"  {name} differs by up to {by:.1e}" for name, by in differences[:10]),
    ]


class _Run:
    """One start of the launcher in a workdir, and what can be seen of it from outside."""

    def __init__(self, command: Sequence[str], workdir: Path) -> None:
        workdir.mkdir(parents=True, exist_ok=True)
        self.workdir, self._log = workdir, workdir / "log.txt"
        line = [*command, "--mode=train", f"--workdir={workdir}", "--config.train.log_every=1"]
        with self._log.open("a") as log:
            self._from = log.tell()
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._process = subprocess.Popen(line, env=peers.alone(os.environ), **streams)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.kill()  # otherwise it would outlive a proof that ends early
        self._process.wait()

    def _output(self) -> str:
        return self._log.read_bytes()[self._from :].decode(errors="replace")

    def has_begun(self) -> bool:
        """Whether it has read its text and restored its state."""
        return " parameters, " in self._output()

    def step(self) -> int:
        """The last step in metrics.jsonl, which an earlier start may have written."""
        path = self.workdir / METRICS_FILE
        if not path.exists():
            return 0
        with path.open("rb") as file:  # only the end: this is called a thousand times a second
            file.seek(max(0, path.stat().st_size - 4096))
            complete = file.read().split(b"\n")[:-1]
        return json.loads(complete[-1])["step"] if complete else 0

    def saving(self) -> bool:
        """Whether a checkpoint is being written at this moment."""
        folder = self.workdir / FOLDER
        return folder.exists() and not all(map(manifest.exists, folder.iterdir()))

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds, or the run has ended."""
        while not condition() and self._process.poll() is None:
            time.sleep(0.001)

    def finish(self) -> None:
        """Waits for the end; raises UserError if the run fails."""
        if self._process.wait():
            last = "".join(self._output().strip().splitlines()[-1:])
            raise UserError(f"the run in {self.workdir} failed by itself: {last}")

    def kill(self) -> str:
        """Kills the run, and returns where that was; raises UserError if it has ended before."""
        if self._process.poll() is not None:
            self.finish()
            raise UserError(
                f"the run in {self.workdir} finished before it could be killed: "
                "give more --config.train.steps, or fewer --kills"
            )
        saving, begun = self.saving(), self.has_begun()
        self._process.kill()
        self._process.wait()
        where = "during startup" if not begun else "inside a save" if saving else "between saves"
        return f"{where}, after step {self.step()}"


def _kill(run: _Run, place: str, target: int, startup: float, rng: np.random.Generator) -> str:
    """Kills a run at a place, at step `target` or later; returns where that was."""
    if place == "start":
        time.sleep(rng.uniform(0, startup))
        return run.kill()
    run.wait_for(run.has_begun)
    run.wait_for(lambda: run.step() >= target)
    if place == "save":
        run.wait_for(run.saving)
        time.sleep(rng.exponential(0.002))
    else:
        time.sleep(rng.exponential(0.05))
        run.wait_for(lambda: not run.saving())
    return run.kill()


def _losses(workdir: Path) -> dict[int, float | None]:
    """The training loss of each step; None = not finite."""
    rows = read_metrics(workdir / METRICS_FILE)
    return {row["step"]: row["train"]["loss"] for row in rows if "train" in row}


def last_state(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, by its path.

    Raises:
      UserError: if there is no checkpoint.
    """
    folder = (workdir / FOLDER).absolute()
    steps = manifest.complete(folder)
    if not steps:
        raise UserError(f"{folder} has no complete checkpoint, so there is nothing to compare")
    with ocp.StandardCheckpointer() as checkpointer:
        trees = {
            item: checkpointer.restore(folder / str(steps[-1]) / item)
            for item in ("params", "optimizer")
        }
    named = jax.tree_util.tree_leaves_with_path(trees)
    keystr = jax.tree_util.keystr
    return {keystr(path, simple=True, separator="/"): np.asarray(array) for path, array in named}


def differing_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> list[tuple[str, float]]:
    """The names of the arrays whose bits differ, with the largest difference of their numbers.

    Raises:
      UserError: if the two states do not have the same arrays.
    """
    if a.keys() != b.keys():
        raise UserError(f"the two states have different arrays: {sorted(a.keys() ^ b.keys())}")
    differ = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    return [(name, float(np.max(np.abs(a[name] - b[name])))) for name in differ]
