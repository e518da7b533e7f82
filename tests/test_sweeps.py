"""Sweeps: every point ends once, whatever happens to the launchers.

Launchers are real processes. Their children are too, but most are a stand-in for launch.py, which
takes steps of 20 ms, goes on where its metrics end, and tells on a second one in its workdir.
"""

import collections
import json
import math
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from launching import FLAGS, ROOT, launch, refusal

from transformer_jax import command_line, sweeps
from transformer_jax import config as configs
from transformer_jax.config import Config, UserError
from transformer_jax.sweeps import child, progress, runner, study

STAND_IN = """
import fcntl, json, os, signal, sys, time
from pathlib import Path

given = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
workdirs, points = [Path(given["workdir"])], [given]
if "sweep_lanes" in given:
    from transformer_jax import command_line
    names = given["sweep_lanes"].split(",")
    workdirs = [workdirs[0] / name for name in names]
    of_name = {p["name"]: p for p in command_line.load_sweep(Path(given["config"]))}
    points = [{f"config.{k}": v for k, v in of_name[name].items()} for name in names]
def note(event, *of):
    for workdir in of or workdirs:
        with open(workdir / "events", "a") as file:
            file.write(f"{event} {os.getppid()} {len(workdirs)}\\n")
for workdir in workdirs:
    workdir.mkdir(exist_ok=True)
alone = [open(workdir / "alone", "w") for workdir in workdirs]
try:
    for file in alone:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    note("two")
def save(*_):  # as a run does: it takes a while
    time.sleep(float(os.environ.get("SECONDS_TO_SAVE", 0.1)))
    note("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
note("start")
if given.get("config.demo") == "fail" and not os.path.exists("mended"):
    print("hello")
    sys.exit("error: this point cannot be")
diverges = given.get("config.demo") == "diverge"
paths = [workdir / "metrics.jsonl" for workdir in workdirs]
read = lambda path: path.read_text().splitlines(True) if path.exists() else []
done = min(len(read(path)) for path in paths)
for path in paths:
    path.write_text("".join(read(path)[:done]))
steps = int(given.get("config.train.steps", 11))
for step in range(done + 1, steps + 1):
    time.sleep(0.02)
    for path, point in zip(paths, points):
        loss = float(point.get("config.optimizer.learning_rate_scale", 1)) + 1 / step
        row = {"step": step, "time": time.time(), "train": {"loss": 1}}
        if step % 7 == 0 or step == steps:
            row["valid"] = {"loss": None if diverges and step > 7 else loss, "bleu": 7}
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\\n")
stopped = [float(p.get("config.optimizer.learning_rate_scale", 1)) > 100 for p in points]
for workdir, stops in zip(workdirs, stopped):
    if stops:
        (workdir / "log.txt").open("a").write("error: the loss diverged\\n")
        continue
    if len(workdirs) > 1:
        (workdir / "log.txt").open("a").write("finished\\n")
    note("end", workdir)
sys.exit("error: some stopped" if any(stopped) else 0)
"""
# run(): the arguments of sweeps.run after the experiment file, the workdir and the workers.
LAUNCHER = """
import json, sys
from pathlib import Path
from transformer_jax import command_line, sweeps

file, workdir, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
config = command_line.load_experiment(file)
launcher = [sys.executable, str(Path(__file__).parent / "stand_in.py")]
defaults = {"workers": 2, "num_trials": None, "url": None, "arguments": []}
status = sweeps.run(config, file, workdir, launcher=launcher, **(defaults | options))
assert "jax" not in sys.modules
sys.exit(status)
"""
EXPERIMENT = """
from transformer_jax.config import Config
from transformer_jax.sweep_points import chain, grid
def get_config():
    config = Config(name="stand_in", demo="")
    config.train.steps = 11
    return config
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    return tmp_path


def experiment(sweep, name="points.py"):
    Path(name).write_text(EXPERIMENT + sweep)
    return name


def seeds(number):
    return experiment(f"def sweep(): return grid({{'seed': range({number})}})\n")


def start(file, workdir="run", **options):
    """A launcher in the background."""
    command = [sys.executable, "launcher.py", file, workdir, json.dumps(options)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finish(launcher):
    """Its exit status and what it said."""
    _, said = launcher.communicate(timeout=120)
    return launcher.returncode, said


def summary(workdir="run"):
    """The points of sweep.json by name."""
    listed = json.loads(Path(workdir, runner.SUMMARY).read_text())["points"]
    return {point["name"]: point for point in listed}


def events(name, *workdirs):
    """What the runs of a point noted, and its launcher: [("start", 4711), …]."""
    lines = []
    for workdir in workdirs or ["run"]:
        path = Path(workdir, name, "events")
        lines += path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def trials(url="sqlite:///run/study.db"):
    """The states of the trials in the study, by the names of their points."""
    found = collections.defaultdict(list)
    for trial in optuna.load_study(study_name="run", storage=url).trials:
        found[trial.user_attrs["point"]["name"]].append(trial.state.name)
    return dict(found)


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_for_more_events(number, launcher):
    """Until a run of seed_0, seed_1, … has noted something new, or the launcher has ended."""
    total = lambda: sum(len(events(f"seed_{seed}")) for seed in range(number))  # noqa: E731
    before = total()
    wait_for(lambda: total() > before or launcher.poll() is not None)


# --------------------------------------------------------------------------------- whatever happens
def test_a_launcher_that_is_killed_at_random_moments_ends_every_point_once(folder, monkeypatch):
    # The next launcher is there before the last one's children are gone.
    monkeypatch.setenv("SECONDS_TO_SAVE", "1.2")
    file, rng = seeds(7), random.Random(17)
    for _ in range(4):
        launcher = start(file, workers=3)
        # Each launcher gets somewhere, and then dies soon.
        wait_for_more_events(7, launcher)
        time.sleep(rng.uniform(0, 0.3))
        launcher.kill()
        finish(launcher)
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


def test_points_of_one_program_share_children_and_end_once(folder, monkeypatch):
    """As above, but three points in each child, of which two may run at a time."""
    monkeypatch.setenv("SECONDS_TO_SAVE", "1.2")
    file = experiment(
        "def sweep(): return chain(grid({'seed': range(5)}), grid({'seed': [0, 1]}, "
        "{'model.d_ff': [17]}))\n"
    )
    names = [*(f"seed_{n}" for n in range(5)), "seed_0_d_ff_17", "seed_1_d_ff_17"]
    rng = random.Random(19)
    for _ in range(3):
        launcher = start(file, vectorize=3)
        wait_for_more_events(5, launcher)
        time.sleep(rng.uniform(0, 0.3))
        launcher.kill()
        finish(launcher)
    status, said = finish(start(file, vectorize=3))
    assert status == 0, said
    assert trials() == {name: ["COMPLETE"] for name in names}
    for name in names:
        noted = [event for event, _ in events(name)]
        assert "two" not in noted
        assert noted[-1] == "end"
        rows = map(json.loads, Path("run", name, "metrics.jsonl").read_text().splitlines())
        assert [row["step"] for row in rows] == list(range(1, 12))
    for name, lanes in zip(names, [3, 3, 3, 2, 2, 2, 2], strict=True):
        started = Path("run", name, "events").read_text().splitlines()[0]
        assert started.split()[2] == str(lanes), "the first group is the whole one"


def test_a_lane_that_stops_has_failed_and_its_neighbours_have_not(folder):
    scales = "{'optimizer.learning_rate_scale': [1.5, 300.5, 2.5]}"
    file = experiment(f"def sweep(): return grid({scales})\n")
    status, _ = finish(start(file, vectorize=8))
    assert status == 1
    found = {name.rpartition("_")[2]: p for name, p in summary().items()}
    assert {n: p["state"] for n, p in found.items()} == {
        "1.5": "finished",
        "300.5": "failed",
        "2.5": "finished",
    }
    assert found["300.5"]["reason"] == "error: the loss diverged"
    assert found["1.5"]["value"] == pytest.approx(1.5 + 1 / 11)


def test_a_child_that_fails_fails_for_all_its_lanes(folder):
    file = experiment("def sweep(): return grid({'seed': [3, 5]})\n")
    status, _ = finish(start(file, vectorize=2, arguments=["--config.demo=fail"]))
    assert status == 1
    assert {p["reason"] for p in summary().values()} == {"error: this point cannot be"}


def test_lanes_are_stopped_by_one_signal_and_go_on_together(folder):
    file = seeds(4)
    launcher = start(file, vectorize=4)
    wait_for(lambda: events("seed_3"))
    launcher.send_signal(signal.SIGTERM)
    status, said = finish(launcher)
    assert status == 75, said
    assert {p["state"] for p in summary().values()} == {"interrupted"}
    assert finish(start(file, vectorize=4))[0] == 0
    for seed in range(4):
        assert [e for e, _ in events(f"seed_{seed}")] == ["start", "saved", "start", "end"]


def test_points_that_were_begun_at_other_times_do_not_share_a_child(folder):
    file = seeds(3)
    saved = Path("run/seed_1/checkpoints/4000")
    saved.mkdir(parents=True)
    (saved / "manifest.sha256").touch()
    assert finish(start(file, vectorize=3))[0] == 0
    lanes = [Path("run", f"seed_{n}", "events").read_text().split()[2] for n in range(3)]
    assert lanes == ["2", "1", "2"]


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
    assert status == configs.PREEMPTED_STATUS == 75
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
    assert said.splitlines()[-1].endswith("and the same line tries them again")


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


def test_a_search_does_not_try_again_what_failed(folder):
    file = experiment("def search_space(trial): return {'demo': 'fail'}\n")
    for _ in range(2):
        status, said = finish(start(file, num_trials=1))
        assert status == 1
        assert said.splitlines()[-1].endswith("and a greater --sweep_trials adds others")
        assert [event for event, _ in events("trial_0000")] == ["start"]


# ---------------------------------------------------------------------------------------- the study
def database(tmp_path, name="study.db"):
    return study.Study(study.sqlite_url(tmp_path / name), "run")


def test_a_search_depends_on_the_seed_alone(tmp_path):
    def chosen(name, seed):
        opened = database(tmp_path, name)
        space = lambda trial: {"seed": trial.suggest_int("seed", 0, 10**6)}  # noqa: E731
        assert [opened.suggest(space, 3, seed=seed) for _ in range(5)] == [True] * 3 + [False] * 2
        return [point.overrides["seed"] for point in opened.points()]

    first = chosen("a", 5)
    assert chosen("b", 5) == first
    assert len({*first, *chosen("c", 6)}) == 6, "trials repeat each other"


def test_a_trial_that_was_begun_and_not_described_is_the_next_one(tmp_path):
    opened = database(tmp_path)

    def killed(trial):
        trial.suggest_int("seed", 0, 10**6)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened.suggest(killed, 1, seed=0)
    assert opened.points() == []
    assert opened.suggest(lambda trial: {"seed": trial.params["seed"]}, 1, seed=0)
    (point,) = opened.points()
    assert point.name == "trial_0000"
    assert not opened.suggest(killed, 1, seed=0)


def test_the_points_of_a_study_do_not_change(tmp_path):
    opened = database(tmp_path)
    opened.enqueue([("a", {"seed": 1})])
    opened.enqueue([("a", {"seed": 1}), ("b", {"seed": 2})])
    assert [point.name for point in opened.points()] == ["a", "b"]
    with pytest.raises(UserError, match=r"a was begun with \{'seed': 1\}, and is \{'seed': 3\}"):
        opened.enqueue([("a", {"seed": 3})])


def test_a_point_that_ended_since_it_was_read_is_not_claimed(tmp_path):
    first, second = database(tmp_path), database(tmp_path)
    first.enqueue([("a", {"seed": 1})])
    (point,) = second.points()
    assert first.claim(point)
    first.end(point, "finished", value=3.5)
    assert not second.claim(point)
    assert second.points()[0].value == 3.5
    assert second._leases.living() == set()


def test_a_study_is_of_one_configuration(tmp_path):
    opened, config = database(tmp_path), Config(name="a")
    opened.check(config)
    config.name, config.data.path = "b", "elsewhere"
    opened.check(config)
    config.model.d_ff = 17
    with pytest.raises(UserError, match=r"other options \(model.d_ff: 2048 then, 17 now\)"):
        database(tmp_path).check(config)


def test_a_password_is_not_shown():
    assert study.shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


# ------------------------------------------------------------------------------------------- leases
def leasing(tmp_path, **me):
    """Leases of a process; `me` makes it another one."""
    opened = database(tmp_path)._leases
    opened._me |= me
    return opened


def test_a_lease_is_one_launchers_until_it_is_given_back(tmp_path):
    first, second = leasing(tmp_path), leasing(tmp_path)
    assert first.take("a")
    assert not second.take("a")
    assert not first.take("a")
    assert second.take("b")
    assert first.living() == second.living() == {"a", "b"}
    second.release("a")  # not its own
    assert not second.take("a")
    first.release("a")
    assert second.take("a")


def test_a_dead_launchers_lease_is_free_at_once_on_its_machine(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead, living = leasing(tmp_path, pid=gone.pid), leasing(tmp_path)
    assert dead.take("a")
    assert living.living() == set()
    assert living.take("a")
    assert dead.beat(["a"]) == ["a"], "it was not dead, and learns that its lease is lost"
    assert living.beat(["a"]) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such namespaces")
def test_a_container_with_this_machines_name_is_elsewhere(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    here, there = leasing(tmp_path), leasing(tmp_path, pid=gone.pid)
    name, space = here._me["host"].split()
    assert (name, space[:5]) == (socket.gethostname(), "pid:[")
    there._me["host"] = f"{name} {space}7"  # its process numbers say nothing here
    assert there.take("a")
    assert not here.take("a")


def test_elsewhere_it_is_free_after_a_minute_without_a_beat(tmp_path, monkeypatch):
    there, here = leasing(tmp_path, host="there"), leasing(tmp_path)
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert there.take("a")
    assert not here.take("a")
    for _ in range(9):
        now += 50
        there.beat(["a"])
        assert not here.take("a")
    now += 59
    assert not here.take("a")
    now += 2
    assert here.take("a")
    assert there.beat(["a"]) == ["a"]


RACE = """
import sys, time
from pathlib import Path
from transformer_jax.sweeps import study
opened = study.Study(study.sqlite_url(Path("race.db")), "run")
while time.time() < float(sys.argv[1]):
    pass
opened.enqueue([(f"p{n}", {}) for n in range(13)])
print(*(point.name for point in opened.points() if opened.claim(point)), flush=True)
sys.stdin.read()  # a process that is gone has no leases
"""


def test_of_several_that_claim_a_point_at_once_one_gets_it(folder):
    Path("race.py").write_text(RACE)
    at = str(time.time() + 3)
    command = [sys.executable, "race.py", at]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    claimed = [name for racer in racers for name in racer.stdout.readline().split()]
    for racer in racers:
        racer.communicate()
    assert sorted(claimed) == sorted(f"p{n}" for n in range(13))
    names = [t.user_attrs["point"]["name"] for t in _trials_of("race.db")]
    assert sorted(names) == sorted(f"p{n}" for n in range(13)), "added more than once"


def _trials_of(name):
    return optuna.load_study(study_name="run", storage=f"sqlite:///{name}").trials


# ---------------------------------------------------------------------------------- a child process
def test_a_second_child_is_not_started_while_the_first_lives(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    first = child.start(sleep, [tmp_path / "a"])
    assert child.start(sleep, [tmp_path / "a"]) is None
    assert first.status(tmp_path / "a") is None
    first.stop()
    first.wait()
    assert first.status(tmp_path / "a") in child.INTERRUPTED
    second = child.start([sys.executable, "-c", "print(1/0)"], [tmp_path / "a"])
    second.wait()
    assert second.status(tmp_path / "a") == 1
    assert second.reason(tmp_path / "a") == "ZeroDivisionError: division by zero"
    third = child.start(
        [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], [tmp_path / "a"]
    )
    third.wait()
    assert third.reason(tmp_path / "a") == "ended by SIGKILL"


def test_a_child_of_several_points_has_all_their_workdirs(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    script = (
        "import sys; from pathlib import Path; from transformer_jax.sweeps import child\n"
        "child.note_end(Path(sys.argv[1]), ''); child.note_end(Path(sys.argv[2]), 'it\\nrose')\n"
        "print('of all'); sys.stdin.read(); sys.exit('error: no more')\n"
    )
    line = [sys.executable, "-c", script, str(a), str(b)]
    several = child.start(line, [a, b, c])
    assert all(child.start(["true"], [c, d]) is None for d in (a, b, tmp_path / "d"))
    assert child.start(["true"], [tmp_path / "d"]) is not None, "it was given back"
    several.wait()
    assert [several.status(d) for d in (a, b, c)] == [0, 1, 1]
    assert [several.reason(d) for d in (b, c)] == ["error: it rose", "error: no more"]
    assert (c / child.LOG).read_text().endswith("\nwhat it says is in ../a/lanes_log.txt\n")
    again = child.start(["true"], [a, b])
    again.wait()
    assert (again.status(a), again.status(b)) == (0, 0), "what was said before is over"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock alone has to do")
def test_children_end_with_their_launcher(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from transformer_jax.sweeps import child\n"
        "child.start([sys.executable, '-c', 'import time; time.sleep(600)'], [Path(sys.argv[1])])\n"
        "print('started', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert launcher.stdout.readline() == "started\n"
    assert child.start(["true"], [tmp_path / "a"]) is None
    launcher.kill()
    launcher.communicate()
    wait_for(lambda: child.start(["true"], [tmp_path / "a"]) is not None)


# ---------------------------------------------------------------------------- what a person is told
def row(step, seconds, **groups):
    return json.dumps({"step": step, "time": 1000.0 + seconds, **groups}) + "\n"


def test_progress_is_read_from_the_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    seen = progress.Progress(tmp_path, 100)
    seen.refresh()
    assert (seen.step, seen.loss, seen.valid, seen.seconds_left) == (0, None, [], None)
    path.write_text(row(3, 6, train={"loss": 5}) + row(7, 14, train={"loss": 4}))
    seen.refresh()
    assert (seen.step, seen.loss, seen.valid, seen.bleu) == (7, 4, [], None)
    assert seen.seconds_left == pytest.approx(2 * 93)
    text = path.read_text() + row(7, 15, valid={"loss": 3.5, "bleu": 11})
    path.write_text(text + row(8, 16, valid={"loss": None, "bleu": 12}) + '{"step": 9')
    seen.refresh()
    assert (seen.step, seen.valid[0], seen.bleu) == (8, (7, 3.5), 12)
    assert seen.valid[1] == (8, pytest.approx(math.nan, nan_ok=True)), "it passes for a better one"


def lines(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        row(3, 6, train={"loss": 5}) + row(7, 14, train={"loss": 4}, valid={"loss": 3, "bleu": 11})
    )
    seen = progress.Progress(tmp_path, 100)
    seen.refresh()
    states = ["finished", "waiting", "running", "failed", "waiting"]
    return [progress.Line(f"p{n}", state, 100, seen) for n, state in enumerate(states)]


def test_the_table(tmp_path):
    table = progress.render(lines(tmp_path), height=20)
    assert table[0].split() == ["point", "state", "step", "loss", "valid", "BLEU", "left"]
    assert table[1].split() == ["p2", "running", "7/100", "4.000", "3.000", "11.0", "0:03:06"]
    assert [line.split()[0] for line in table[2:-1]] == ["p3", "p0", "p1", "p4"]
    assert table[-1] == "1 running, 1 failed, 1 finished, 2 waiting"
    for height in range(3, 20):
        short = progress.render(lines(tmp_path), height=height)
        assert len(short) <= height
        assert short[-1] == table[-1]
    fits_two = progress.render(lines(tmp_path), height=5)
    assert fits_two == [*fits_two[:3], "… and 3 more", table[-1]]
    assert [line.split()[0] for line in fits_two[1:3]] == ["p2", "p3"]


def test_on_a_terminal_the_table_is_redrawn_in_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    table = progress.Table()
    table.show(lines(tmp_path), {})
    drawn = capsys.readouterr().err
    assert "\x1b[7A" not in drawn
    assert drawn.count("\n") == 7
    table.show(lines(tmp_path), {})
    assert capsys.readouterr().err.startswith("\x1b[7A"), "it goes up as far as it went down"


def test_elsewhere_each_change_of_state_is_a_line(tmp_path, capsys):
    table = progress.Table()
    for _ in range(2):
        table.show(lines(tmp_path), {"p3": "a reason"})
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "p0: finished: validation loss 3.0000, BLEU 11.0",
        "p2: running",
        "p3: failed: a reason",
    ]


# --------------------------------------------------------------------------------- launch.py itself
TYPES = {
    "demo": "a=b, 我 'c'",
    "optimizer.epsilon": 1e-09,
    "model.attention_bias": True,
    "train.tensorboard": False,
    "seed": 3,
    "model.dropout_rate": 0,
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two points by launch.py, and what its launcher said."""
    folder = tmp_path_factory.mktemp("swept")
    file = folder / "two.py"
    base = "config = Config(name='two'); config.data.corpus = 'small_world'; return config"
    file.write_text(
        "from transformer_jax.config import Config\n"
        f"def get_config(scale=''):\n    {base}\n"
        f"def sweep(scale=''):\n    yield {{'name': 'one' + scale, **{TYPES!r}}}\n"
        "    yield {'name': 'two', 'seed': 1, 'train.steps': 8}\n"
    )
    arguments = ["--mode=sweep", f"--config={file}:x", f"--workdir={folder}/run", *FLAGS]
    return folder, arguments, launch(*arguments, "--sweep_workers=2")


def test_the_points_are_trained_by_the_real_launcher(swept):
    folder, arguments, done = swept
    assert done.returncode == 0, done.stderr
    found = summary(folder / "run")
    assert {name: p["state"] for name, p in found.items()} == {
        "onex": "finished",
        "two": "finished",
    }
    config = configs.load(folder / "run" / "onex" / "config.json")
    assert {name: configs.flatten(config)[name] for name in TYPES} == TYPES
    assert (config.name, config.model.d_model) == ("onex", 8)
    # The launch line wins over a point, and sweep.json says so.
    assert configs.load(folder / "run" / "two" / "config.json").train.steps == 4
    assert found["two"]["overrides"] == {"seed": 1, "train.steps": 4}
    for name, point in found.items():
        rows = (folder / "run" / name / "metrics.jsonl").read_text().splitlines()
        (valid,) = (r["valid"]["loss"] for r in map(json.loads, rows) if "valid" in r)
        assert point["value"] == valid
    again = launch(*arguments)
    assert again.returncode == 0
    assert summary(folder / "run") == found, "finished points were run again"
    error = refusal(*arguments, "--config.model.d_ff=22")
    assert "the sweep run was begun with other options (model.d_ff: 14 then, 22 now)" in error


@pytest.mark.slow
def test_the_real_launcher_killed_at_random_moments(swept, tmp_path):
    _, arguments, _ = swept
    line = [*arguments, f"--workdir={tmp_path}/run", "--sweep_workers=2", "--config.train.steps=40"]
    rng = random.Random(23)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, ROOT / "launch.py", *line], cwd=ROOT)
        time.sleep(rng.uniform(2, 14))
        process.kill()
        process.wait()
    done = launch(*line)
    assert done.returncode == 0, done.stderr
    assert {p["state"] for p in summary(tmp_path / "run").values()} == {"finished"}
    states = trials(f"sqlite:///{tmp_path}/run/study.db")
    assert states == {"onex": ["COMPLETE"], "two": ["COMPLETE"]}
    for name in states:
        rows = (tmp_path / "run" / name / "metrics.jsonl").read_text().splitlines()
        steps = [row["step"] for row in map(json.loads, rows) if "train" in row]
        assert steps == list(range(1, 41))


def test_a_dry_run_prints_sizes_and_cost_and_runs_nothing(swept, tmp_path):
    _, arguments, _ = swept
    rest = [a for a in arguments if not a.startswith("--workdir")]
    options = ["--dry_run", "--accelerator=h100", f"--workdir={tmp_path}/none"]
    done = launch(*rest, *options, "--config.train.steps=1000")
    assert done.returncode == 0, done.stderr
    header, one, _, total, note = (line.split() for line in done.stdout.splitlines())
    assert header == ["point", "parameters", "steps", "FLOPs", "hours"]
    # In closed form. Embeddings of 701 pieces; projections of width 8; the feed-forward network of
    # 14 with biases; a norm has 2 × 8. The point "onex" adds biases to attention: 4 × 8.
    attention, norm = 4 * 8 * 8 + 4 * 8, 2 * 8
    feed_forward = 2 * 8 * 14 + 14 + 8
    expected = 701 * 8 + 3 * attention + 2 * feed_forward + 5 * norm
    assert one[:3] == ["onex", f"{expected:,}", "1,000"]
    assert float(total[2]) == pytest.approx(2 * float(one[3]), rel=0.01)
    assert note[:3] == ["hours:", "on", "h100,"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--mode=sweep needs --config=FILE.py"),
        (["--config={file}", "--sweep_index=1"], "--mode=sweep runs all points"),
        (["--config={file}", "--sweep_trials=3"], "has no function search_space(trial)"),
        (["--config={file}", "--accelerator=h100"], "goes with --mode=sweep --dry_run"),
        (["--config={file}", "--workdir=gs://b/x"], "needs a folder of this machine, not gs://b/x"),
        (
            ["--config={file}", "--sweep_storage=nothing"],
            "--sweep_storage=nothing cannot be opened",
        ),
        (["--config={file}", "--config.train.evaluate_every=0"], "evaluate_every must not be 0"),
        (
            ["--config={file}", "--sweep_vectorize=2", "--config.parallel.strategy=pmap"],
            "lanes train on one device, and parallel.strategy='pmap'",
        ),
        (
            ["--config={file}", "--sweep_vectorize=2", "--config.train.rng=rbg"],
            "train.rng='rbg' draws other numbers for lanes",
        ),
        (
            ["--config={file}", "--sweep_vectorize=2", "--sweep_trials=3"],
            "--sweep_vectorize=2 goes with the points of a sweep()",
        ),
    ],
)
def test_a_launch_line_that_cannot_be(tmp_path, arguments, part):
    file = tmp_path / "points.py"
    file.write_text(EXPERIMENT + "def sweep(): return grid({'seed': [3, 5]})\n")
    line = [argument.format(file=file) for argument in arguments]
    default = [] if any("--workdir" in a for a in line) else [f"--workdir={tmp_path}/run"]
    assert part in refusal("--mode=sweep", *line, *default)


@pytest.mark.parametrize(
    ("sweep", "part"),
    [
        ("def sweep(): return [{'name': '../a'}]", "point ../a of sweep() of points.py: its name"),
        ("def sweep(): return [{'name': 'a', 'sede': 1}]", "there is no option sede"),
        ("def sweep(): return grid({'model.num_heads': [7]})", "point num_heads_7 of sweep() of"),
        ("def sweep(): return []", "sweep() of points.py has no points"),
        ("def sweep(): pass", "sweep() of points.py returned a NoneType, not its points"),
        (
            "def sweep(): return [{'name': 'study.db'}]",
            "point study.db of sweep() of points.py: its",
        ),
        ("def sweep(): return [{'name': 'a'}, {'name': 'A'}]", "another point's but for capitals"),
        ("def sweep(): return [{'name': 'a' * 201}]", "its name is longer than 200 bytes"),
        ("def sweep(): return grid({'train.evaluate_every': [0]})", "train.evaluate_every is 0"),
        (
            "def sweep(): return grid({'optimizer.clip_norm': [1e999]})",
            "clip_norm=inf must be a fin",
        ),
        ("def search_space(trial): return {}", "for its search_space() give --sweep_trials=…"),
    ],
)
def test_points_that_cannot_be(folder, sweep, part):
    file = Path(experiment(sweep))
    with pytest.raises(UserError) as caught:
        sweeps.load_points(file, command_line.load_experiment(file), [])
    assert part in str(caught.value)


def test_a_search_space_that_returns_another_thing(folder):
    file = Path(experiment("def search_space(trial): return {'model.d_ff': 1.5}"))
    options = {"workers": 1, "num_trials": 1, "url": None, "arguments": [], "launcher": []}
    with pytest.raises(UserError, match=r"search_space\(\) of points.py: model.d_ff=1.5 is not"):
        sweeps.run(command_line.load_experiment(file), file, folder / "run", **options)


def test_a_dry_run_says_what_trains_together(swept):
    _, arguments, _ = swept
    rest = [a for a in arguments if not a.startswith("--workdir")]
    done = launch(*rest, "--dry_run", "--sweep_vectorize=5")
    assert done.stdout.splitlines()[-2:] == ["alone: onex", "alone: two"]


def test_a_search_space_may_take_the_argument(folder):
    experiment("def search_space(trial, scale='-'): return {'demo': scale}")
    assert command_line.load_search_space(Path("points.py:big"))(None) == {"demo": "big"}
    assert command_line.load_search_space(Path("points.py"))(None) == {"demo": "-"}
