"""Sweeps whose runs are a stand-in for the launcher, and what they wrote.

The stand-in takes steps of 20 ms, resumes where its metrics end, and notes in its workdir when it
starts and ends, with which device, and whether another one is there.
"""

import collections
import json
import subprocess
import sys
import time
from pathlib import Path

import optuna

from transformer_jax.sweeps import study, summary

STAND_IN = """
import fcntl, json, os, signal, sys, time
from pathlib import Path

given = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
workdir = Path(given["workdir"])
device = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
def note(event):
    with open(workdir / "events", "a") as file:
        file.write(f"{event} {os.getppid()} {device} {time.monotonic()}\\n")
workdir.mkdir(exist_ok=True)
alone = open(workdir / "alone", "w")
try:
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    sys.exit("error: this point is invalid")
diverges = given.get("config.demo") == "diverge"
metrics = workdir / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
for step in range(done + 1, (steps := int(given.get("config.train.steps", 11))) + 1):
    time.sleep(float(os.environ.get("SECONDS_PER_STEP", 0.02)))
    row = {"step": step, "time": time.time(), "train": {"loss": 1}}
    if step % 7 == 0 or step == steps:
        loss = float(given.get("config.optimizer.learning_rate_scale", 1)) + 1 / step
        row["valid"] = {"loss": None if diverges and step > 7 else loss, "bleu": 7}
    with open(metrics, "a") as file:
        file.write(json.dumps(row) + "\\n")
if given.get("config.train.choose_average"):
    best = {"steps": [7], "bleu": 8, "loss": 0.25}
    content = {"last_step": steps, "chosen": [7], "compared": [best]}
    (workdir / "average.json").write_text(json.dumps(content))
note("end")
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
    """The exit status of a launcher, and its standard error."""
    _, printed = launcher.communicate(timeout=120)
    return launcher.returncode, printed


def points(workdir="run"):
    """The points in sweep.json, by name."""
    listed = json.loads(Path(workdir, summary.SUMMARY).read_text())["points"]
    return {point["name"]: point for point in listed}


def notes(name, *workdirs):
    """What the runs of a point noted: [("start", launcher's pid, device, time), …]."""
    lines = []
    for workdir in workdirs or ["run"]:
        path = Path(workdir, name, "events")
        lines += path.read_text().splitlines() if path.exists() else []
    split = [line.split() for line in lines]
    return [(event, int(pid), device, float(at)) for event, pid, device, at in split]


def events(name):
    """["start", "end"] of a run that was not interrupted."""
    return [event for event, *_ in notes(name)]


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


def database(tmp_path, name="study.db", **options):
    return study.Study(f"sqlite:///{tmp_path / name}", "run", **options)
