"""Killed anywhere, gone on anywhere: the proof that --mode=verify_resume gives, at toy size."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from launching import FLAGS, ROOT, launch, refusal

from transformer_jax import manifest, resume_proof

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
    told = re.search(r"from step (\d+), .* 1e-05 for (\d+) of (\d+) steps", done.stdout)
    first, stay, after = map(int, told.groups())
    assert 1 <= first <= 20 <= after and stay == after, told[0]
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
