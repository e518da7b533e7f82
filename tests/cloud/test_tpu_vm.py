"""Cloud TPU without one: the script runs against a stand-in; gcloud's own parser reads it, too."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transformer_jax.cloud import tpu_vm
from transformer_jax.errors import UserError

HOSTILE = "--config.demo=我 'a' \"b\" $(touch pwned) `touch pwned`; touch pwned & {c} \\ #!"
# What the hosts run as launch.py: $BUCKET outlives a TPU.
RUN = """
import json, os, sys, time
from pathlib import Path
bucket, stand_in = Path(os.environ["BUCKET"]), Path(os.environ["STAND_IN"])
host = os.environ["HOST"]
with (bucket / f"{host}.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + chr(10))
print("step 1 on", host, flush=True)
exec((bucket / "then.py").read_text())
print("the end on", host)
"""
ONCE = ["create", "describe", "scp", "ssh"]


def script(arguments, **options):
    defaults = {"name": "a-run", "accelerator": "v5litepod-16", "zone": "us-west4-a"}
    return tpu_vm.script(arguments, **defaults | options)


class World:
    """A checkout, a bucket and the stand-in for gcloud, in which a job's script runs."""

    def __init__(self, folder):
        self.folder, self.stand_in, self.bucket = folder, folder / "stand_in", folder / "bucket"
        self.checkout = folder / "a 'check' out"
        for made in (self.stand_in, self.bucket, self.checkout):
            made.mkdir()
        (self.stand_in / "commands").touch()
        self.states("WAITING_FOR_RESOURCES", "ACTIVE")
        self.then("")
        (self.checkout / "launch.py").write_text(RUN)
        subprocess.run(["git", "init", "-q"], cwd=self.checkout, check=True)

    def states(self, *states):
        (self.stand_in / "states").write_text("".join(f"{state}\n" for state in states))

    def then(self, code):
        """What the run does after its first step."""
        (self.bucket / "then.py").write_text(code)

    def start(self, **options):
        file, folder = self.folder / "job.sh", str(self.checkout)
        job = script(["--workdir=gs://b/x", HOSTILE], folder=folder, **options)
        file.write_text(job.replace("reclaimed=20", "reclaimed=2"), encoding="utf-8")
        assert subprocess.run(["bash", "-n", file]).returncode == 0
        environment = os.environ | {
            "PATH": f"{Path(__file__).with_name('stand_in')}:{os.environ['PATH']}",
            "STAND_IN": str(self.stand_in),
            "BUCKET": str(self.bucket),
            "PYTHON": sys.executable,
            "TMPDIR": str(self.folder),
        }
        # Tests that run in the background inherit that signals are ignored.
        command = ["env", "--default-signal=INT,TERM,HUP", "bash", file]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, **pipes)

    def run(self, **options):
        """The script's status, standard output and standard error."""
        job = self.start(**options)
        out, error = job.communicate(timeout=60)
        assert not list(self.folder.rglob("pwned")) and not list(self.folder.glob("tmp.*"))
        return job.returncode, out, error

    def commands(self):
        text = (self.stand_in / "commands").read_text()
        return [command.split("\0") for command in text.split("\0\0")[:-1]]

    def verbs(self):
        """["create", "describe", …] without repetitions, and without the look for the name."""
        found = [command[3] for command in self.commands()]
        made = [v for i, v in enumerate(found) if found[i + 1 : i + 2] != ["create"]]
        return [v for i, v in enumerate(made) if i == 0 or v != made[i - 1]]

    def runs(self, host):
        """The arguments of each time that launch.py ran there."""
        return [json.loads(line) for line in (self.bucket / f"{host}.jsonl").open()]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


LIST = """
files = [n for n in sorted([*os.listdir(), *os.listdir("runs")]) if not n.startswith("run.")]
installed = (Path.home() / "installed").read_text().splitlines()
(bucket / host).write_text(json.dumps([files, installed]))
"""


def test_a_run_from_the_request_to_the_deletion(world):
    (world.checkout / "runs").mkdir()
    for name in ("gone.py", "runs/added", "runs/ignored", "new 'é'.py"):
        (world.checkout / name).touch()
    subprocess.run(["git", "add", "gone.py", "runs/added"], cwd=world.checkout, check=True)
    (world.checkout / "gone.py").unlink()
    (world.checkout / ".gitignore").write_text("runs/\n")
    world.then(LIST)
    status, out, error = world.run()
    assert status == 0, error
    assert world.verbs() == [*ONCE, "delete"]
    logged = [line for line in error.splitlines() if line.startswith("a-run: ")]
    assert logged == ["a-run: WAITING_FOR_RESOURCES", "a-run: ACTIVE"]
    for host in ("host0", "host1"):
        assert world.runs(host) == [["--workdir=gs://b/x", HOSTILE]]
        files, installed = json.loads((world.bucket / host).read_text())
        assert files == [".gitignore", ".venv", "added", "launch.py", "new 'é'.py", "runs"]
        assert [line.split()[1] for line in installed] == ["pip", "uv", "uv"]
        assert installed[-1].endswith("-e . jax[tpu] gcsfs")
        assert f"step 1 on {host}\nthe end on {host}\n" in out


RECLAIM_ONCE = """
if not (bucket / "checkpoint").exists():
    time.sleep(0.3)
    if host == "host0":
        (bucket / "checkpoint").touch()
        (stand_in / "reclaimed").touch()
    time.sleep(60)
"""


def test_a_reclaimed_tpu_is_replaced_and_the_run_started_again(world):
    world.then(RECLAIM_ONCE)
    status, _, error = world.run()
    assert status == 0, error
    assert world.verbs() == [*ONCE, "describe", "delete", *ONCE, "delete"]
    assert world.runs("host0") == [["--workdir=gs://b/x", HOSTILE]] * 2
    assert error.count("a-run was reclaimed, 1 times so far") == 1


DROP = """
if host == "host0":
    (stand_in / "dropped").touch()
    while (stand_in / "dropped").exists():
        time.sleep(0.02)
time.sleep(0.5)
"""


def test_a_run_outlives_a_lost_connection(world):
    world.then(DROP)
    status, out, error = world.run()
    assert status == 0, error
    assert len(world.runs("host0")) == len(world.runs("host1")) == 1
    assert "the end on host0\n" in out and "the end on host1\n" in out


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ("if host == 'host1': print('no such file', flush=True); sys.exit(3)", 3),
        ("print('no such file', flush=True); import signal; os.kill(os.getppid(), 9)", 1),
    ],
)
def test_a_run_that_fails_ends_the_script_with_its_status(world, then, expected):
    world.then(then)
    status, out, _ = world.run()
    assert status == expected and "no such file" in out
    assert world.verbs() == [*ONCE, "describe", "delete"]


@pytest.mark.parametrize(
    ("states", "fails", "options", "status", "verbs", "message"),
    [
        (["CREATING", "FAILED"], "", {}, 1, ["create", "describe", "delete"], "a-run: FAILED"),
        (["ACTIVE"], "create", {}, 1, ["create"], "requesting"),
        (["ACTIVE"], "scp", {}, 1, ["create", "describe", "scp", "describe", "delete"], "copying"),
        (["ACTIVE"], "ssh", {}, 1, [*ONCE, "describe", "delete"], "installing"),
        (["ACTIVE"], "delete", {}, 0, [*ONCE, "delete"], "a-run may still exist, and cost money"),
        (["ACTIVE"], "", {"keep": True}, 0, ONCE, "queued-resources delete a-run --force --zone="),
        (
            *(["ACCEPTED", "SUSPENDING"], "", {"keep": True}, 1),
            *(["create", "describe", "delete"] * 3, "giving up; run this file again to resume"),
        ),
    ],
)
def test_a_failure_deletes_the_tpu_or_reports_it(
    world, states, fails, options, status, verbs, message
):
    world.states(*states)
    (world.stand_in / "fails").write_text(fails)
    found, _, error = world.run(**options)
    assert (found, world.verbs()) == (status, verbs), error
    assert message in error


def test_a_tpu_that_has_the_name_is_left_alone(world):
    world.run(keep=True)
    before = world.commands()
    status, _, error = world.run()
    assert status == 1 and "a-run exists" in error
    assert [command[3] for command in world.commands()[len(before) :]] == ["describe"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_script_deletes_the_tpu(world, number):
    world.then("(bucket / 'begun').touch(); time.sleep(60)")
    job = world.start()
    while not (world.bucket / "begun").exists() and job.poll() is None:
        pass
    job.send_signal(number)
    _, error = job.communicate(timeout=30)
    assert job.returncode == 130
    assert error.endswith("deleting a-run\n")
    assert world.verbs() == [*ONCE, "delete"]


def exit_status_of_gcloud(arguments, folder):
    """2: its parser refuses the command; 1, and no account: it would run it."""
    environment = os.environ | {"CLOUDSDK_CONFIG": str(folder), "CLOUDSDK_CORE_PROJECT": "p"}
    command = ["gcloud", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    no_account = "do not currently have an active account" in done.stderr
    assert done.returncode == 2 or no_account, done.stderr
    return done.returncode


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_the_parser_of_gcloud_accepts_every_command(world):
    world.run(spot=True)
    commands = {words[3]: words for words in world.commands()}
    archive = Path(commands["scp"][4])
    archive.parent.mkdir()
    archive.touch()
    for words in commands.values():
        assert exit_status_of_gcloud(words, world.folder) == 1, words
    # `tpu-vm create` has --version; here it would be a mistake.
    wrong = [word.replace("--runtime-version", "--version") for word in commands["create"]]
    assert exit_status_of_gcloud(wrong, world.folder) == 2


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a;b", "--zone=x", "1a", "a" * 64])
def test_a_name_that_google_would_refuse_is_refused(name):
    with pytest.raises(UserError, match="--name="):
        script([], name=name, folder="/")
