"""Killed anywhere, resumed exactly: the proof of --mode=verify_resume, at toy size."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from launching import FLAGS, ROOT, launch, own_cache, refusal, refused

from transformer_jax.config.options import Config, TrainConfig
from transformer_jax.modes import resume_proof
from transformer_jax.parallel.host import alive
from transformer_jax.workdir import lock

LONGER = ["--config.train.checkpoint_every=7", "--config.train.evaluate_every=28"]
LONGER += ["--config.model.dropout_rate=0.1", "--config.demo="]


@pytest.mark.parametrize(
    ("number", "steps"), [(2, 37), pytest.param(8, 90, marks=pytest.mark.slow)]
)
def test_kills_change_no_bit(tmp_path, number, steps):
    line = ["--mode=verify_resume", f"--workdir={tmp_path / 'p'}", f"--kills={number}"]
    longer = [*LONGER, f"--config.train.steps={steps}"]
    done = launch(*line, *FLAGS, *longer, variables=own_cache("test_resume"))
    assert done.returncode == 0, done.stdout + done.stderr
    kills = [line for line in done.stdout.splitlines() if line.startswith("kill ")]
    assert len(kills) == number
    for place in ("inside a save", "between saves"):
        assert sum(place in line for line in kills) >= max(1, number // 4), kills
    assert f"losses of {steps} steps: the same" in done.stdout
    assert "are the same bit for bit\npassed" in done.stdout
    assert json.loads((tmp_path / "p" / "proof.json").read_text())["passed"] is True
    _the_proof_can_fail(tmp_path / "p", steps)


def _the_proof_can_fail(folder, steps):
    """It sees one bit of one array, one loss, and one missing step."""
    whole, interrupted = folder / "whole", folder / "interrupted"
    assert not resume_proof.compare(whole, interrupted)[0]
    state = resume_proof.last_state(whole)
    assert len(state) > 50
    other = dict(state)
    name = next(n for n in state if n.endswith("embedding"))
    other[name] = np.nextafter(state[name], np.inf)
    ((found, by),) = resume_proof.differing_arrays(state, other)
    assert found == name and 0 < by < 1e-3
    lines = (interrupted / "metrics.jsonl").read_text().splitlines(keepends=True)
    row = json.loads(lines[5])
    row["train"]["loss"] = np.nextafter(row["train"]["loss"], np.inf)
    altered = [*lines[:5], json.dumps(row) + "\n", *lines[6:]]
    (interrupted / "metrics.jsonl").write_text("".join(altered))
    differing, report = resume_proof.compare(whole, interrupted)
    assert differing and report[0] == f"losses of {steps} steps: differ"
    (interrupted / "metrics.jsonl").write_text("".join(lines[:-2]))
    with pytest.raises(ValueError, match="did not make the same steps"):
        resume_proof.compare(whole, interrupted)


def test_of_two_runs_at_once_the_second_is_refused(workdir):
    """tests/workdir/test_lock.py has the rest."""
    with lock.held(workdir):
        error = refusal(f"--workdir={workdir}", *FLAGS, "--config.train.steps=6")
    assert f"{workdir} is in use by process {os.getpid()} on " in error


def test_a_proof_that_cannot_start(tmp_path):
    mode = "--mode=verify_resume"
    assert "exists: remove it" in refusal(mode, f"--workdir={tmp_path}", *FLAGS)
    new = f"--workdir={tmp_path / 'new'}"
    assert "needs more than 8 steps, and train.steps=4" in refusal(mode, new, *FLAGS)


# A run as seen from outside. Its losses after a restart are off by OFFSET, and it hangs at STOPS.
STAND_IN = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, ROOT)
from transformer_jax.workdir import manifest
workdir = next(Path(a.split("=")[1]) for a in sys.argv if a.startswith("--workdir="))
metrics, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
first = max((int(p.parent.name) for p in checkpoints.glob(f"*/{manifest.NAME}")), default=0)
print("stand-in: 7 parameters, 47 steps", flush=True)
rows = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
metrics.write_text("".join(r for r in rows if json.loads(r)["step"] <= first))
for step in range(first + 1, 48):
    loss = None if step == 2 else 1 / step + (OFFSET if first else 0)
    with metrics.open("a") as file:
        file.write(json.dumps({"step": step, "train": {"loss": loss}}) + "\\n")
    print(f"step {step}/47  loss", flush=True)
    if step % 5 == 0 or step == 47:
        folder = checkpoints / str(step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a").write_text("a")
        time.sleep(0.05)
        manifest.write(folder)
    time.sleep(0.02)
    if step == STOPS: time.sleep(600)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """command(…) of a launcher that takes a second."""
    monkeypatch.setattr(resume_proof, "last_state", lambda workdir: {})

    def command(offset=0, stops=0):
        script = STAND_IN.replace("ROOT", repr(str(ROOT))).replace("OFFSET", str(offset))
        (tmp_path / "stand_in.py").write_text(script.replace("STOPS", str(stops)))
        return [sys.executable, str(tmp_path / "stand_in.py")]

    return command


def prove(command, folder):
    return resume_proof.prove(CONFIG, command, folder, kills=2)


CONFIG = Config(train=TrainConfig(steps=47))


@pytest.mark.parametrize("offset", [0, 1e-15])
def test_a_run_whose_losses_differ_after_a_restart_fails(stand_in, tmp_path, offset):
    proof = prove(stand_in(offset), tmp_path / "p")
    assert proof.passed == (offset == 0), proof.text
    assert proof.text.count("kill ") == 2
    assert f"losses of 47 steps: {'differ' if offset else 'the same'}" in proof.text
    content = json.loads((tmp_path / "p" / "proof.json").read_text())
    assert (content["passed"], content["kills"]) == (proof.passed, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_proof_that_is_stopped_leaves_no_run(stand_in, tmp_path, request, number):
    log, before = tmp_path / "p" / "whole" / "log.txt", signal.getsignal(signal.SIGTERM)
    # A shell has its jobs in the background ignore Ctrl-C, and the tests may be one.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, ctrl_c))

    def stop():
        while not (log.exists() and "step 3/" in log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    children, popen = [], subprocess.Popen

    class Recorded(popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            children.append(self.pid)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(subprocess, "Popen", Recorded)
        prove(stand_in(stops=3), tmp_path / "p")
    thread.join()
    assert len(children) == 1 and not alive(children[0])
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("; raise SystemExit('the end')", r"the run in .*/whole failed by itself: the end"),
        ("", r"finished before it could be killed: .* fewer --kills"),
    ],
)
def test_a_run_that_fails_or_ends_by_itself_is_named(tmp_path, end, message):
    command = [sys.executable, "-c", "print('a: 7 parameters, x', flush=True)" + end]
    assert re.search(message, refused(prove, command, tmp_path / "p"))


def test_a_run_without_a_checkpoint_has_no_state(tmp_path):
    for folder in (tmp_path, tmp_path / "checkpoints" / "3"):
        folder.mkdir(parents=True, exist_ok=True)
        assert "has no complete checkpoint" in refused(resume_proof.last_state, tmp_path)
