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
    events,
    experiment,
    finish,
    seeds,
    start,
    summary,
    trials,
    wait_for,
    wait_for_more_events,
)

from transformer_jax.errors import PREEMPTED_STATUS
from transformer_jax.sweeps import child, leases, runner, study


def kill_launchers(file, times, *, seed, number, **options):
    """Each gets somewhere, with `number` points seed_0, seed_1, …, and then dies soon."""
    rng = random.Random(seed)
    for _ in range(times):
        launcher = start(file, **options)
        wait_for_more_events(number, launcher)
        time.sleep(rng.uniform(0, 0.3))
        launcher.kill()
        finish(launcher)


def test_a_launcher_that_is_killed_at_random_moments_ends_every_point_once(folder, monkeypatch):
    # The next launcher is there before the last one's children are gone.
    monkeypatch.setenv("SECONDS_TO_SAVE", "1.2")
    file = seeds(7)
    kill_launchers(file, 4, seed=17, number=7, workers=3)
    status, said = finish(start(file, workers=3))
    assert status == 0, said
    names = {f"seed_{seed}" for seed in range(7)}
    assert trials() == {name: ["COMPLETE"] for name in names}
    assert {name: p["state"] for name, p in summary().items()} == dict.fromkeys(names, "finished")
    starts = 0
    for name in names:
        noted = [event for event, _ in events(name)]
        assert "two" not in noted
        assert noted[-1] == "end"
        starts += noted.count("start")
        rows = map(json.loads, Path("run", name, "metrics.jsonl").read_text().splitlines())
        assert [row["step"] for row in rows] == list(range(1, 12))
    assert starts > 7, "no kill interrupted anything"


@pytest.mark.parametrize("shared", ["folder", "database"])
def test_two_launchers_share_the_points(folder, shared):
    file = seeds(11)
    if shared == "folder":
        workdirs, options = ["run"], {}
        launchers = [start(file), start(file)]
    else:  # as on two machines
        workdirs, options = ["a/run", "b/run"], {"url": "sqlite:///shared.db"}
        launchers = [start(file, workdir, **options) for workdir in workdirs]
    for launcher in launchers:
        status, said = finish(launcher)
        assert status == 0, said
    names = {f"seed_{seed}" for seed in range(11)}
    assert trials(options.get("url", "sqlite:///run/study.db")) == {n: ["COMPLETE"] for n in names}
    by = set()
    for name in names:
        (begun, launcher), (ended, _) = events(name, *workdirs)
        assert (begun, ended) == ("start", "end")
        by.add(launcher)
    assert by == {launcher.pid for launcher in launchers}
    for workdir in workdirs:
        assert {p["state"] for p in summary(workdir).values()} == {"finished"}


def test_a_signal_is_passed_on_and_the_same_line_goes_on(folder):
    file = seeds(5)
    launcher = start(file)
    wait_for(lambda: events("seed_0") and events("seed_1"))
    launcher.send_signal(signal.SIGINT)
    status, said = finish(launcher)
    assert status == PREEMPTED_STATUS == 75
    assert said.splitlines()[-1].startswith("interrupted: 2 interrupted, 3 waiting")
    assert [event for event, _ in events("seed_0")] == ["start", "saved"]
    states = [point["state"] for point in summary().values()]
    assert states == ["interrupted", "interrupted", "waiting", "waiting", "waiting"]
    assert finish(start(file))[0] == 0
    assert [e for e, _ in events("seed_0")] == ["start", "saved", "start", "end"]
    assert set(map(tuple, trials().values())) == {("COMPLETE",)}


def test_a_point_that_fails_is_named_and_tried_again(folder):
    file = experiment("def sweep(): return grid({'demo': ['fail', 'a'], 'seed': [3, 5]})\n")
    status, said = finish(start(file))
    assert status == 1
    last = said.splitlines()[-1]
    assert "2 of 4 points failed: demo_fail_seed_3, demo_fail_seed_5" in last
    assert "demo_fail_seed_3: failed: error: this point cannot be" in said
    found = summary()
    assert {name: p["state"] for name, p in found.items()} == {
        "demo_fail_seed_3": "failed",
        "demo_fail_seed_5": "failed",
        "demo_a_seed_3": "finished",
        "demo_a_seed_5": "finished",
    }
    assert found["demo_fail_seed_3"]["reason"] == "error: this point cannot be"
    assert found["demo_a_seed_3"]["value"] == pytest.approx(1 + 1 / 11)
    assert found["demo_a_seed_3"]["overrides"] == {"demo": "a", "seed": 3}
    assert found["demo_a_seed_3"]["seconds"] > 0.2
    log = Path("run", "demo_fail_seed_3", child.LOG).read_text().splitlines()
    assert log[1:] == ["hello", "error: this point cannot be"]
    Path("mended").touch()
    status, said = finish(start(file))
    assert (status, summary()["demo_fail_seed_3"]["state"]) == (0, "finished")
    assert [event for event, _ in events("demo_a_seed_3")] == ["start", "end"]
    assert trials()["demo_fail_seed_3"] == ["FAIL", "COMPLETE"]


def test_a_point_whose_loss_is_finite_no_more_has_failed(folder):
    status, said = finish(start(experiment("def sweep(): return grid({'demo': ['diverge']})\n")))
    assert status == 1
    point = summary()["demo_diverge"]
    assert (point["state"], point["value"]) == ("failed", None), "7 steps' loss stands for 11's"
    assert point["reason"] == "it ended without a finite validation loss"
    assert said.splitlines()[-1].endswith("and the same command tries them again")


SEARCH = """
def search_space(trial):
    scale = trial.suggest_float("scale", 0.1, 10, log=True)
    return {"optimizer.learning_rate_scale": scale, "train.steps": 97}
"""


def test_points_that_optuna_chooses_and_the_worse_ones_are_pruned(folder):
    status, said = finish(start(experiment(SEARCH), num_trials=13, workers=3))
    assert status == 0, said
    found = summary()
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
    again = start(experiment(SEARCH), num_trials=13)
    assert finish(again)[0] == 0
    assert summary() == found


def running(opened):
    """A launcher in this process."""
    command = [sys.executable, "stand_in.py"]
    plan = runner.Plan(Path("run"), 1, command, arguments=[], steps=11, about={})
    return runner.Runner(opened, plan)


def test_on_a_terminal_reasons_are_told_after_the_table(folder, capsys):
    opened = study.Study(study.sqlite_url(Path("study.db")), "run")
    opened.enqueue([("a", {}), ("b", {})])
    for point in opened.points():
        assert opened.claim(point)
        ended = {"a": {"value": 1.5}, "b": {"reason": "error: no"}}[point.name]
        opened.end(point, "finished" if point.name == "a" else "failed", **ended)
    ours = running(opened)
    for live in (False, True):
        ours.table.live = live
        assert ours.summarize(opened.points(), interrupted=False) == 1
        said = capsys.readouterr().err
        assert ("b: failed: error: no\n" in said) == live
        assert "error: 1 of 2 points failed: b;" in said


def test_a_point_that_another_launcher_took_is_left_to_it(folder):
    """A launcher that slept for minutes: its child ends well, and the other one's run counts."""
    opened = study.Study(study.sqlite_url(Path("study.db")), "run")
    opened.enqueue([("a", {"seed": 1})])
    ours = running(opened)
    ours.update(start=True)
    other = study.Study(study.sqlite_url(Path("study.db")), "run")
    taken = other._leases
    with taken._engine.begin() as connection:
        connection.execute(leases._TABLE.update().values(**taken._me))
    wait_for(ours.collect)
    (point,) = other.points()
    assert (point.state, point.value) == ("running", None)
    other.end(point, "finished", value=0.5)
    assert opened.points()[0].value == 0.5


def test_a_child_that_is_always_interrupted_fails_in_the_end(folder, monkeypatch):
    monkeypatch.setattr(runner, "_MOST_RESTARTS", 2)
    Path("stand_in.py").write_text("print('no room'); raise SystemExit(75)\n")
    opened = study.Study(study.sqlite_url(Path("study.db")), "run")
    opened.enqueue([("a", {"seed": 1})])
    assert running(opened).run() == 1
    (point,) = opened.points()
    assert (point.state, point.reason) == ("failed", "it was interrupted 2 times: no room")
    lines = Path("run/a", child.LOG).read_text().splitlines()
    assert lines.count("no room") == 3


def test_a_search_does_not_try_again_what_failed(folder):
    file = experiment("def search_space(trial): return {'demo': 'fail'}\n")
    for _ in range(2):
        status, said = finish(start(file, num_trials=1))
        assert status == 1
        assert said.splitlines()[-1].endswith("and a greater --sweep_trials adds others")
        assert [event for event, _ in events("trial_0000")] == ["start"]
