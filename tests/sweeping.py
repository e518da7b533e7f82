"""Sweeps whose runs are a stand-in for launch.py, and what they wrote.

The stand-in takes steps of 20 ms, goes on where its metrics end, and tells on a second one in its
workdir.
"""

import collections
import json
import subprocess
import sys
import time
from pathlib import Path

import optuna

from transformer_jax.sweeps import runner, study

STAND_IN = """
import fcntl, json, os, signal, sys, time
from pathlib import Path

given = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
workdirs, points = [Path(given["workdir"])], [given]
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
with open(workdirs[0] / "devices", "a") as file:
    file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "") + "\\n")
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
from transformer_jax.config import experiment_files
from transformer_jax.sweeps import sweep

file, workdir, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
config = experiment_files.load_experiment(file)
launcher = [sys.executable, str(Path(__file__).parent / "stand_in.py")]
defaults = {"workers": 2, "num_trials": None, "url": None, "arguments": []}
status = sweep.run(config, file, workdir, launcher=launcher, **(defaults | options))
assert "jax" not in sys.modules
sys.exit(status)
"""
EXPERIMENT = """
from transformer_jax.config.options import Config
from transformer_jax.sweeps.points import chain, grid
def get_config():
    config = Config(name="stand_in", demo="")
    config.train.steps = 11
    return config
"""


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


def database(tmp_path, name="study.db"):
    return study.Study(study.sqlite_url(tmp_path / name), "run")
