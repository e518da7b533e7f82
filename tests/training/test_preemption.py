"""SIGTERM and SIGINT in every phase of a training: status 75, nothing lost, the same bits."""

import os
import signal
import time

import pytest
from failures import launch_signalled
from launching import FLAGS, launch

from transformer_jax.errors import PREEMPTED_STATUS, Preempted
from transformer_jax.modes import resume_proof
from transformer_jax.training import preemption

# phase: what is called there, and the calls it takes to get to it.
PHASES = {
    "tokenizing": ("data.tokens", "tokenize_pairs", 1),
    "compiling": ("functional.losses", "label_smoothed_cross_entropy", 1),
    "a step": ("workdir.tracking", "Tracker.train_step", 2),
    "saving": ("workdir.checkpoints", "Checkpoints.save", 1),
    "listing": ("workdir.manifest", "write", 1),
    "validating": ("training.validation", "Validation.__call__", 1),
    "closing": ("workdir.checkpoints", "Checkpoints.close", 1),
    "decoding": ("evaluation.scores", "corpus_scores", 1),
    "the demo": ("modes.train", "_translate_demo", 1),
}


def interrupt(workdir, phase, *, signals=(signal.SIGTERM,), then="pass", flags=()):
    line = [f"--workdir={workdir}", *FLAGS, *flags]
    return launch_signalled(*line, at=PHASES[phase], signals=signals, then=then)


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param(["saving", "validating"], id="in the loop"),
        pytest.param(list(PHASES), id="everywhere", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_in_each_phase_ends_as_the_whole_one(tmp_path, phases):
    """One workdir, stopped in one phase after the other, against the uninterrupted run."""
    workdir, whole = tmp_path / "run", tmp_path / "whole"
    longer = ["--config.train.steps=12", "--config.train.evaluate_every=12"]
    for phase in phases:
        done = interrupt(workdir, phase, flags=longer)
        assert done.returncode == PREEMPTED_STATUS == 75, (phase, done.stderr)
        for part in ("SIGTERM: stopping within 25 s", "stopped on request: ", "same command"):
            assert part in done.stderr, phase
        assert "Traceback" not in done.stderr, (phase, done.stderr)
        # No lock and no half-written file is left.
        assert not (workdir / "lock").exists() and not list(workdir.rglob("*.tmp"))
    for folder in (workdir, whole):
        done = launch(f"--workdir={folder}", *FLAGS, *longer)
        assert done.returncode == 0, done.stderr
    states = [resume_proof.last_state(folder) for folder in (workdir, whole)]
    assert resume_proof.differing_arrays(*states) == []
    assert (workdir / "metrics.jsonl").read_text().count('"valid"') == 1
    scores = [(w / "evaluation/test/translations.tsv").read_bytes() for w in (workdir, whole)]
    assert scores[0] == scores[1]


def test_ctrl_c_does_the_same(tmp_path):
    done = interrupt(tmp_path, "a step", signals=[signal.SIGINT])
    assert done.returncode == 75, done.stderr
    assert "SIGINT: stopping" in done.stderr and "of 4 steps, 3 are saved" in done.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_destructor_swallows_still_counts():
    class Swallows:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    survived = False
    with (
        pytest.raises(Preempted),
        preemption.handled(600),
        preemption.deferred(),
        preemption.immediate(),
    ):
        swallows = Swallows()
        del swallows
        survived = True
    assert survived


# What Python cannot interrupt; a compilation takes as long.
_BUSY = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
_SECOND = "import threading; threading.Timer(1, os.kill, (os.getpid(), 15)).start(); "


@pytest.mark.parametrize(
    ("grace", "then", "message"),
    [(600, _SECOND, "stopped immediately"), (1.5, "", "not done within 1.5 s")],
)
def test_a_second_signal_and_the_end_of_the_grace_period_end_it(tmp_path, grace, then, message):
    started = time.monotonic()
    flags = [f"--config.train.grace_seconds={grace}"]
    done = interrupt(tmp_path, "compiling", then=then + _BUSY, flags=flags)
    assert done.returncode == 75
    assert f"SIGTERM: stopping within {grace} s" in done.stderr and message in done.stderr
    assert time.monotonic() - started < 60
