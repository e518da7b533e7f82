"""Killed anywhere, gone on anywhere: the proof that --mode=verify_resume gives, at toy size."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from launching import FLAGS, ROOT, launch, refusal

from transformer_jax.config.options import Config, TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.parallel.host import alive
from transformer_jax.training import resume_proof
from transformer_jax.training.resume_proof import Change, Start
from transformer_jax.workdir import manifest

LONGER = ["--config.train.steps=90", "--config.train.checkpoint_every=7"]
LONGER += ["--config.train.evaluate_every=28", "--config.model.dropout_rate=0.1"]


def test_eight_kills_change_no_bit(tmp_path):
    done = launch("--mode=verify_resume", f"--workdir={tmp_path / 'p'}", *FLAGS, *LONGER)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = [line for line in done.stdout.splitlines() if line.startswith("kill ")]
    assert len(kills) == 8
    assert sum("inside a save" in line for line in kills) >= 2, kills
    assert sum("between saves" in line for line in kills) >= 2, kills
    assert "losses of 90 steps: the same" in done.stdout
    assert "are the same bit for bit\npassed" in done.stdout
    assert json.loads((tmp_path / "p" / "proof.json").read_text())["passed"] is True
    _the_proof_can_fail(tmp_path / "p")


def _the_proof_can_fail(folder):
    """Its parts see what they are to see."""
    whole, interrupted = folder / "whole", folder / "interrupted"
    state = resume_proof.last_state(whole)
    assert len(state) > 50
    other = dict(state)
    name = next(n for n in state if n.endswith("embedding"))
    other[name] = np.nextafter(state[name], np.inf)
    ((found, by),) = resume_proof.differing_arrays(state, other)
    assert found == name and 0 < by < 1e-3
    lines = (interrupted / "metrics.jsonl").read_text().splitlines()
    (interrupted / "metrics.jsonl").write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(ValueError, match="did not make the same steps"):
        resume_proof.losses_apart(whole, interrupted)


def test_on_other_devices_the_losses_agree(tmp_path):
    flags = ["--kills=3", "--verify_devices=1,2,4", "--config.train.steps=40"]
    flags += ["--config.train.checkpoint_every=3", "--config.train.evaluate_every=0"]
    flags += ["--config.model.dropout_rate=0.1"]
    done = launch("--mode=verify_resume", f"--workdir={tmp_path / 'p'}", *FLAGS, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"after step (\d+), .* 1e-05 of .* for (\d+) of (\d+) steps", done.stdout)
    first, stay, after = map(int, told.groups())
    assert 1 <= first <= 20 <= after and stay == after, told[0]
    change = r"step (\d+), devices (\d) → (\d): .* its loss differs by (\S+)"
    changes = re.findall(change, done.stdout)
    assert [change[1:3] for change in changes] == [("1", "2"), ("2", "4"), ("4", "1")]
    assert int(changes[0][0]) == first + 1
    assert all(float(change[3]) <= 1e-5 for change in changes)
    apart = resume_proof.losses_apart(tmp_path / "p" / "whole", tmp_path / "p" / "interrupted")
    assert max(apart[:first]) == 0 < max(apart[first:]) <= 1e-5, "or no other devices were tried"
    log = (tmp_path / "p" / "interrupted" / "log.txt").read_text()
    assert "2 cpu devices, pmap" in log and "4 cpu devices, pmap" in log
    assert log.count("1 cpu device, jit") == 2, "it ends on one device again"


def test_of_two_runs_at_once_the_second_is_refused(tmp_path):
    long = [*FLAGS, "--config.train.steps=1000000", "--config.train.evaluate_every=0"]
    first = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), f"--workdir={tmp_path}", *long],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "checkpoints").glob(f"*/{manifest.NAME}")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        done = launch(f"--workdir={tmp_path}", *long)
        assert done.returncode == 2
        assert f"{tmp_path} is in use by process {first.pid} on " in done.stderr
        assert first.poll() is None, "the first goes on"
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()


def test_a_proof_that_cannot_be_begun(tmp_path):
    mode = "--mode=verify_resume"
    assert "exists: remove it" in refusal(mode, f"--workdir={tmp_path}", *FLAGS)
    new = f"--workdir={tmp_path / 'new'}"
    assert "needs more than 8 steps, and train.steps=4" in refusal(mode, new, *FLAGS)
    assert "give numbers" in refusal(mode, new, *FLAGS, "--verify_devices=a")


def start(devices, first, last, *, shift=0.0, without=()):
    """A start that made the steps after `first`, to `last`."""
    steps = [step for step in range(first + 1, last + 1) if step not in without]
    return Start(devices, first, {step: 1.0 / step + shift for step in steps})


WHOLE = start(1, 0, 23)


def test_the_first_change_is_judged_by_the_steps_made_twice():
    starts = [WHOLE, start(1, 0, 7), start(2, 5, 23, shift=3e-6)]
    assert resume_proof.changes(starts) == [Change(6, 1, 2, pytest.approx(3e-6))]
    apart = [0.0] * 5 + [3e-6] * 11 + [2e-5] * 7
    lines, passed = resume_proof.judge(starts, apart, same_state=False)
    assert passed
    assert lines == [
        "step 6, devices 1 → 2: with the same parameters its loss differs by 3.0e-06",
        "after step 5, on other devices, the losses are within 1e-05 of the uninterrupted run's "
        "for 11 of 18 steps; the largest difference of all these steps is 2.0e-05",
    ]
    apart[4] = 1e-9
    assert not resume_proof.judge(starts, apart, same_state=False)[1], "before it all is the same"


def test_every_change_is_judged():
    """The second one is wrong by 1e-3; the run had drifted by 1e-2 from the uninterrupted one."""
    starts = [WHOLE, start(1, 0, 7), start(2, 5, 13, shift=1e-6), start(1, 11, 23, shift=1e-3)]
    found = resume_proof.changes(starts)
    assert [(c.step, c.before, c.after) for c in found] == [(6, 1, 2), (12, 2, 1)]
    apart = [0.0] * 5 + [1e-2] * 18
    assert not resume_proof.judge(starts, apart, same_state=False)[1]
    starts[-1] = start(1, 11, 23, shift=2e-6)
    assert resume_proof.judge(starts, apart, same_state=False)[1]


def test_a_start_that_made_no_step_is_no_change():
    starts = [WHOLE, start(1, 0, 7), start(2, 0, 0), start(4, 5, 5), start(2, 5, 23, shift=1e-6)]
    assert [(c.step, c.before, c.after) for c in resume_proof.changes(starts)] == [(6, 1, 2)]
    none = [WHOLE, start(1, 0, 7), start(2, 0, 0), start(1, 5, 23)]
    assert resume_proof.changes(none) == []
    lines, passed = resume_proof.judge(none, [0.0] * 23, same_state=True)
    assert not passed and lines == [
        "no step was made on other devices than the first: give more --kills"
    ]


def test_only_steps_from_the_same_parameters_are_compared():
    """One device made step 6 after its own step 5, but the checkpoint of step 5 is of two."""
    own = start(1, 0, 7, shift=1e-3)
    starts = [WHOLE, own, start(2, 3, 6, shift=1e-6), start(4, 5, 23)]
    assert resume_proof.changes(starts)[1] == Change(6, 2, 4, pytest.approx(1e-6))
    starts = [WHOLE, own, start(2, 3, 5, shift=1e-6), start(4, 5, 23)]
    assert resume_proof.changes(starts)[1] == Change(6, 2, 4, math.inf), "two made no step 6"
    starts = [WHOLE, start(1, 0, 2), start(1, 0, 0), start(2, 0, 23, shift=1e-6)]
    assert resume_proof.changes(starts) == [Change(1, 1, 2, pytest.approx(1e-6))], "the seed's"


def test_losses_that_are_not_finite():
    assert resume_proof._apart(None, None) == 0
    assert resume_proof._apart(None, 1.0) == resume_proof._apart(1.0, None) == math.inf
    same = [start(1, 0, 3), start(1, 0, 3)]
    assert resume_proof.judge(same, [0.0], same_state=True)[1]
    assert not resume_proof.judge(same, [0.0, math.inf], same_state=True)[1]
    assert not resume_proof.judge(same, [0.0], same_state=False)[1]
    assert resume_proof.judge(same, [], same_state=True)[1]
    null = Start(2, 0, {1: None, 2: 0.5, 3: 0.3})
    lines, passed = resume_proof.judge([WHOLE, null], [math.inf, 0, 0], same_state=False)
    assert not passed and "its loss differs by inf" in lines[0]


# A run as seen from outside, whose loss depends on its devices, and which stops to validate after
# a save, so that it makes no step beyond its checkpoint, once on each number of devices.
STAND_IN = """
import json, os, re, sys, time
from pathlib import Path
sys.path.insert(0, os.getcwd())
from transformer_jax import manifest
workdir = next(Path(a.split("=")[1]) for a in sys.argv if a.startswith("--workdir="))
number = int(os.environ["XLA_FLAGS"].split("=")[1])
metrics, checkpoints = workdir / "metrics.jsonl", workdir / "checkpoints"
first = max((int(p.parent.name) for p in checkpoints.glob(f"*/{manifest.NAME}")), default=0)
on = f"; resuming from step {first}" if first else ""
print(f"stand-in: 7 parameters, 47 steps{on}", flush=True)
rows = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
metrics.write_text("".join(r for r in rows if json.loads(r)["step"] <= first))
seen = workdir / f"validated_{number}"
for step in range(first + 1, 48):
    row = {"step": step, "train": {"loss": None if step == 2 else 1 / step + number * OFFSET}}
    with metrics.open("a") as file:
        file.write(json.dumps(row) + "\\n")
    print(f"step {step}/47  loss", flush=True)
    if step % 5 == 0 or step == 47:
        folder = checkpoints / str(step)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a").write_text("a")
        time.sleep(0.05)
        manifest.write(folder)
        if workdir.name == "interrupted" and not seen.exists() and step >= VALIDATED:
            seen.touch()
            time.sleep(0.5)
    time.sleep(0.02)
    if STOPS == step: time.sleep(600)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """command(…) of a launcher that takes a second."""
    monkeypatch.setattr(resume_proof, "last_state", lambda workdir: {})

    def command(offset=1e-7, validated=100, stops=0):
        script = STAND_IN.replace("OFFSET", str(offset)).replace("VALIDATED", str(validated))
        (tmp_path / "stand_in.py").write_text(script.replace("STOPS", str(stops)))
        return [sys.executable, str(tmp_path / "stand_in.py")]

    return command


CONFIG = Config(train=TrainConfig(steps=47))


def prove(command, folder, *, kills=2, devices=(1, 2)):
    return resume_proof.prove(CONFIG, command, folder, kills=kills, devices=devices)


@pytest.mark.parametrize(("offset", "passed"), [(1e-7, True), (1e-3, False)])
def test_a_stand_in_with_rounding_passes_and_one_with_an_error_does_not(
    stand_in, tmp_path, offset, passed
):
    proof = prove(stand_in(offset), tmp_path / "p")
    assert proof.passed == passed, proof.text
    assert proof.text.count("with the same parameters") == 2, proof.text
    assert proof.text.count(f"its loss differs by {offset:.1e}") == 2, proof.text


def test_one_killed_before_it_made_a_step_again_is_started_once_more(
    stand_in, tmp_path, monkeypatch
):
    def kill(run, *where):  # while it validates
        resume_proof._wait(run, (run.workdir / f"validated_{run.devices[0]}").exists, "there")
        return resume_proof._end(run)

    monkeypatch.setattr(resume_proof, "_kill", kill)
    proof = prove(stand_in(validated=10), tmp_path / "p", devices=(1, 2, 4))
    assert proof.passed, proof.text
    assert proof.text.count("for a step to compare") == 2, proof.text
    assert (
        "step 11, devices 1 → 2: with the same parameters its loss differs by 1.0e-07" in proof.text
    )
    assert (
        "step 16, devices 2 → 4: with the same parameters its loss differs by 2.0e-07" in proof.text
    )


def test_numbers_of_devices_that_would_not_come_to_it(stand_in, tmp_path):
    with pytest.raises(
        UserError, match=r"--kills=2 makes 3 starts, and in --verify_devices=1,1,1,2"
    ):
        prove(stand_in(), tmp_path / "p", devices=(1, 1, 1, 2))


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


def test_steps_that_an_earlier_start_left_are_not_its_own(tmp_path):
    """It was killed before it could remove them."""
    rows = [{"step": step, "train": {"loss": 1 / step}} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    says = "print('x: 7 parameters, 9 steps; resuming from step 2\\nstep 3/9  loss'[:{}])"
    for length, losses in ((-14, {}), (None, {3: 1 / 3})):
        command = [sys.executable, "-c", says.format(length)]
        with resume_proof._Run(command, tmp_path, [2]) as run:
            run.process.wait()
            assert run.made() == Start(2, 2, losses)


def test_a_run_that_hangs_is_not_waited_for(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(resume_proof, "_PATIENCE", 0.7)
    run = resume_proof._Run(stand_in(stops=37), tmp_path / "w", [1])
    with (
        run,
        pytest.raises(UserError, match=r"not come to step 39, and has written nothing for 1 s"),
    ):
        resume_proof._wait(run, lambda: run.step() >= 39, "step 39")
    assert run.step() == 37, "it had the time that it took to come there"
    assert run.process.poll() is not None


def test_a_run_without_a_checkpoint_has_no_state(tmp_path):
    with pytest.raises(UserError, match="has no complete checkpoint"):
        resume_proof.last_state(tmp_path)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match="has no complete checkpoint"):
        resume_proof.last_state(tmp_path)
