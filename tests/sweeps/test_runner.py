"""Sweeps: every point ends once, whatever happens to the launchers, which are real processes."""

import collections
import json
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from sweeping import (
    database,
    events,
    experiment,
    finish,
    notes,
    points,
    seeds,
    start,
    trials,
    wait_for,
    wait_for_more_events,
)

from transformer_jax.errors import PREEMPTED_STATUS
from transformer_jax.sweeps import child, runner


def test_a_launcher_that_is_killed_at_random_moments_ends_every_point_once(folder, monkeypatch):
    # The next launcher starts before the last one's children are gone.
    monkeypatch.setenv("SECONDS_TO_SAVE", "1.2")
    file, rng = seeds(7), random.Random(17)
    for _ in range(4):
        launcher = start(file, workers=3)
        wait_for_more_events(7, launcher)
        time.sleep(rng.uniform(0, 0.3))
        launcher.kill()
        finish(launcher)
    status, printed = finish(start(file, workers=3))
    assert status == 0, printed
    assert trials() == {f"seed_{seed}": ["COMPLETE"] for seed in range(7)}
    starts = 0
    for name, point in points().items():
        assert point["state"] == "finished"
        noted = events(name)
        assert "two" not in noted and noted[-1] == "end"
        starts += noted.count("start")
        rows = map(json.loads, Path("run", name, "metrics.jsonl").read_text().splitlines())
        assert [row["step"] for row in rows] == list(range(1, 12))
    assert starts > 7, "no kill interrupted anything"


@pytest.mark.parametrize(
    ("workdirs", "url"),
    [
        (["run", "run"], "sqlite:///run/study.db"),
        (["a/run", "b/run"], "sqlite:///shared.db"),  # as on two machines
    ],
)
def test_two_launchers_share_the_points(folder, workdirs, url):
    file = seeds(11)
    launchers = [start(file, workdir, url=url) for workdir in workdirs]
    for launcher in launchers:
        status, printed = finish(launcher)
        assert status == 0, printed
    assert trials(url) == {f"seed_{seed}": ["COMPLETE"] for seed in range(11)}
    by = set()
    for name in trials(url):
        (first, launcher, *_), (last, *_) = notes(name, *set(workdirs))
        assert (first, last) == ("start", "end")
        by.add(launcher)
    assert by == {launcher.pid for launcher in launchers}
    for workdir in workdirs:
        assert {p["state"] for p in points(workdir).values()} == {"finished"}


def test_a_signal_is_passed_on_and_the_same_command_resumes(folder, monkeypatch):
    file = seeds(5)
    monkeypatch.setenv("SECONDS_PER_STEP", "7")
    launcher = start(file)
    monkeypatch.delenv("SECONDS_PER_STEP")
    wait_for(lambda: events("seed_0") and events("seed_1"))
    launcher.send_signal(signal.SIGINT)
    status, printed = finish(launcher)
    assert status == PREEMPTED_STATUS == 75
    assert printed.splitlines()[-1].startswith("interrupted: 2 interrupted, 3 waiting")
    assert events("seed_0") == ["start", "saved"]
    states = [point["state"] for point in points().values()]
    assert states == ["interrupted", "interrupted", "waiting", "waiting", "waiting"]
    assert finish(start(file))[0] == 0
    assert events("seed_0") == ["start", "saved", "start", "end"]
    assert set(map(tuple, trials().values())) == {("COMPLETE",)}


def test_a_point_that_fails_is_named_and_retried(folder):
    chosen = {"name": "chosen", "demo": "diverge", "train.choose_average": True}
    plain = "grid({'demo': ['fail', 'diverge', 'a']})"
    file = experiment(f"def sweep(): return chain({plain}, [{chosen}])\n")
    status, printed = finish(start(file))
    assert status == 1
    assert "2 of 4 points failed: " in printed.splitlines()[-1]
    assert printed.splitlines()[-1].endswith("; the same command retries them")
    assert "demo_fail: failed: error: this point is invalid" in printed
    reason = "it ended without a finite validation loss"
    outcomes = {name: (p["state"], p["value"], p["reason"]) for name, p in points().items()}
    assert outcomes == {
        "demo_fail": ("failed", None, "error: this point is invalid"),
        "demo_diverge": ("failed", None, reason),  # the loss of step 7 is not the last
        "demo_a": ("finished", pytest.approx(1 + 1 / 11), ""),
        "chosen": ("finished", 0.25, ""),  # the average that is used did not diverge
    }
    assert points()["demo_a"]["overrides"] == {"demo": "a"}
    log = Path("run", "demo_fail", child.LOG).read_text().splitlines()
    assert log[1:] == ["hello", "error: this point is invalid"]
    Path("mended").touch()
    assert (finish(start(file))[0], points()["demo_fail"]["state"]) == (1, "finished")
    assert events("demo_a") == ["start", "end"]
    assert trials()["demo_fail"] == ["FAIL", "COMPLETE"]


SEARCH = """
def search_space(trial):
    scale = trial.suggest_float("scale", 0.1, 10, log=True)
    return {"optimizer.learning_rate_scale": scale, "train.steps": 97}
"""


def test_optuna_chooses_points_and_the_worse_ones_are_pruned(folder):
    status, printed = finish(start(experiment(SEARCH), num_trials=13, workers=3))
    assert status == 0, printed
    found = points()
    assert list(found) == [f"trial_{number:04}" for number in range(13)]
    states = collections.Counter(point["state"] for point in found.values())
    assert states["pruned"] >= 1
    assert states["finished"] >= 5  # before there is a median to be worse than
    assert states.total() == states["pruned"] + states["finished"]
    best = min(p["overrides"]["optimizer.learning_rate_scale"] for p in found.values())
    for name, point in found.items():
        lines = len(Path("run", name, "metrics.jsonl").read_text().splitlines())
        assert (lines < 97) == (point["state"] == "pruned")
        if point["overrides"]["optimizer.learning_rate_scale"] == best:
            assert point["state"] == "finished"
    assert finish(start(experiment(SEARCH), num_trials=13))[0] == 0
    assert points() == found


def test_a_search_does_not_retry_what_failed(folder):
    file = experiment("def search_space(trial): return {'demo': 'fail'}\n")
    for _ in range(2):
        status, printed = finish(start(file, num_trials=1))
        assert status == 1
        assert printed.splitlines()[-1].endswith("; --sweep_trials=MORE adds others")
        assert events("trial_0000") == ["start"]


def running(opened, **options):
    """A launcher in this process."""
    command = lambda point: [sys.executable, "stand_in.py", f"--workdir=run/{point.name}"]  # noqa: E731
    return runner.Runner(opened, Path("run"), 1, command, lambda _: 11, {}, **options)


def test_a_point_that_another_launcher_took_over_is_left_to_it(folder):
    """A launcher that slept for minutes: its child ends well, and the other one's run counts."""
    opened = database(Path())
    opened.enqueue([("a", {"seed": 1})])
    ours = running(opened)
    ours.update(start=True)
    now = 0.0
    other = database(Path(), clock=lambda: now)
    (point,) = other.points()
    assert not other.claim(point)
    now += 61
    assert other.claim(point)
    wait_for(ours.collect)
    (point,) = other.points()
    assert (point.state, point.value) == ("running", None)
    other.end(point, "finished", value=0.5)
    assert opened.points()[0].value == 0.5


INTERRUPTED = """
import sys
from pathlib import Path
workdir = Path(sys.argv[1].partition("=")[2])
workdir.joinpath("starts").open("a").write("x")
starts = workdir.joinpath("starts").stat().st_size
if starts in {saving!r}:
    checkpoint = workdir / "checkpoints" / str(starts)
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.sha256").touch()
print("no room")
sys.exit(75 if starts < 9 else 3)
"""


@pytest.mark.parametrize(
    ("saving", "starts", "reason"),
    [
        ([], 3, "interrupted 3 times without a new checkpoint: no room"),
        ([2], 4, "interrupted 3 times without a new checkpoint: no room"),
        ([2, 4, 6, 8], 9, "no room"),
    ],
)
def test_a_child_that_is_always_interrupted_fails_unless_it_saves(folder, saving, starts, reason):
    Path("stand_in.py").write_text(INTERRUPTED.format(saving=saving))
    opened = database(Path())
    opened.enqueue([("a", {"seed": 1})])
    assert running(opened, restarts=2).run() == 1
    (point,) = opened.points()
    assert (point.state, point.reason) == ("failed", reason)
    assert Path("run/a/starts").stat().st_size == starts
