"""Cloud TPU without one: gcloud's own parser takes every command, and a stand-in plays the rest."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import ROOT

from transformer_jax.cloud import checkout, tpu_vm
from transformer_jax.errors import UserError

HOSTILE = "--config.demo=我 'a' \"b\" $(touch pwned) `touch pwned`; touch pwned & {c} \\ #!"
# What the hosts run in place of launch.py: $BUCKET outlives a machine.
RUN = """
import json, os, sys, time
from pathlib import Path
bucket, host = Path(os.environ["BUCKET"]), os.environ["HOST"]
with (bucket / f"{host}.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + chr(10))
print("step 1 on", host, flush=True)
exec((bucket / "then.py").read_text())
print("the end on", host)
"""
# In place of a host's python3: it makes the .venv that is asked for, and installs nothing.
PYTHON3 = f"""#!/bin/bash
echo "$@" >> "$HOME/installed"
if [ "$3" = venv ]; then mkdir -p .venv/bin && ln -s {sys.executable} .venv/bin/python; fi
"""


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The stand-in's folder, with it on PATH as gcloud; a machine is ACTIVE at the second look."""
    here = tmp_path / "stand_in"
    program = Path(__file__).with_name("stand_in_gcloud.py")
    write_program(here / "bin" / "gcloud", f'#!/bin/bash\nexec {sys.executable} {program} "$@"\n')
    write_program(here / "host_bin" / "python3", PYTHON3)
    (here / "log.jsonl").touch()
    scenario(here, [["PROVISIONING", "ACTIVE"]] * 5)
    (tmp_path / "bucket").mkdir()
    then(tmp_path, "")
    monkeypatch.setenv("STAND_IN", str(here))
    monkeypatch.setenv("BUCKET", str(tmp_path / "bucket"))
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    return here


def scenario(here, states, fail=None):
    (here / "scenario.json").write_text(json.dumps({"states": states, "fail": fail}))


def then(tmp_path, code):
    """What the run does after its first step."""
    (tmp_path / "bucket" / "then.py").write_text(code)


@pytest.fixture
def drive(tmp_path, stand_in):
    """drive(**options of TpuVm) -> (exit status, what was logged)."""
    folder = tmp_path / "checkout"
    write_program(folder / "launch.py", RUN)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    checkout.pack(folder, tmp_path / "packed.tar.gz")

    def call(**options):
        logged = []
        driver = tpu_vm.Driver(
            machine(**options),
            str(tmp_path / "packed.tar.gz"),
            log=logged.append,
            sleep=lambda seconds: time.sleep(0.02),
        )
        return driver.run(), logged

    return call


def machine(**options):
    defaults = {
        "name": "a-run",
        "accelerator": "v5litepod-16",
        "arguments": ("--workdir=gs://b/x", HOSTILE),
        "zone": "us-west4-a",
        "project": "p",
    }
    return tpu_vm.TpuVm(**defaults | options)


def log(stand_in):
    return [json.loads(line) for line in (stand_in / "log.jsonl").read_text().splitlines()]


def verbs(stand_in):
    """["create", "describe", …], without repetitions."""
    found = [words[3] for words in log(stand_in)]
    return [verb for i, verb in enumerate(found) if i == 0 or verb != found[i - 1]]


def lines_run(tmp_path, host):
    """The arguments of each time that launch.py ran there."""
    file = tmp_path / "bucket" / f"{host}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


# ------------------------------------------------------------------------------------- commands
def exit_status_of_gcloud(command, tmp_path):
    """2: its parser refuses the command; 1, and no account: it would do it."""
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    no_account = "do not currently have an active account" in done.stderr
    assert done.returncode == 2 or no_account, done.stderr
    return done.returncode


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_the_parser_of_gcloud_takes_every_command(tmp_path):
    vm = machine(spot=True)
    archive = tmp_path / "a.tar.gz"
    archive.touch()
    create = tpu_vm.create(vm)
    verbs = (tpu_vm.start, tpu_vm.describe, tpu_vm.delete, tpu_vm.install, tpu_vm.statuses)
    rest = [tpu_vm.copy(vm, str(archive)), tpu_vm.follow(vm, lines=3), tpu_vm.log_tails(vm)]
    rest += [verb(vm) for verb in verbs]
    for command in [create, *rest]:
        assert exit_status_of_gcloud(command, tmp_path) == 1, shlex.join(command)
    # `tpu-vm create` has --version, and here it would be a mistake.
    wrong = [word.replace("--runtime-version", "--version") for word in create]
    assert exit_status_of_gcloud(wrong, tmp_path) == 2


def test_the_software_follows_the_accelerator_and_unknown_ones_name_the_known():
    def version(accelerator, **options):
        command = tpu_vm.create(machine(accelerator=accelerator, **options))
        return next(word for word in command if word.startswith("--runtime-version="))

    assert version("v6e-8") == "--runtime-version=v2-alpha-tpuv6e"
    assert version("v5p-8") == "--runtime-version=v2-alpha-tpuv5"
    assert version("v5litepod-4") == "--runtime-version=v2-alpha-tpuv5-lite"
    assert version("v4-32") == "--runtime-version=tpu-ubuntu2204-base"
    assert version("v9x-8", runtime_version="other") == "--runtime-version=other"
    for unknown in ("v5e-16", "v6e", "v6e-", "A100:8", ""):
        with pytest.raises(UserError, match="is none of v4-N, v5litepod-N, v5p-N, v6e-N"):
            version(unknown)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a;b", "--zone=x", "1a", "a" * 64])
def test_a_name_that_google_would_refuse_is_refused(name):
    with pytest.raises(UserError, match="--name="):
        tpu_vm.create(machine(name=name))


# --------------------------------------------------------------------------------------- driver
def test_a_run_from_the_request_to_the_deletion(drive, stand_in, tmp_path, capfd):
    status, logged = drive()
    assert status == 0
    expected = [shlex.split(line)[1:] for line in tpu_vm.dry_run(machine()).splitlines()]
    done = log(stand_in)
    assert done[1] == done[2]
    assert done[1][3] == "describe"
    done = [["checkout.tar.gz" if "packed" in w else w for w in words] for words in done]
    assert done[:1] + done[2:] == expected
    assert [one for one in logged if one.startswith("a-run: ")] == [
        "a-run: PROVISIONING",
        "a-run: ACTIVE",
    ]
    for host in ("host0", "host1"):
        assert lines_run(tmp_path, host) == [["--workdir=gs://b/x", HOSTILE]]
    assert not list(tmp_path.rglob("pwned"))
    log_of_worker_0 = capfd.readouterr().out
    assert log_of_worker_0 == "step 1 on host0\nthe end on host0\n"


def test_every_worker_is_installed(drive, stand_in):
    drive(keep=True)
    for host in ("host0", "host1"):
        lines = (stand_in / host / "installed").read_text().splitlines()
        assert [line.split()[1] for line in lines] == ["pip", "uv", "uv"]
        assert lines[-1].endswith("-e . jax[tpu] gcsfs")


def test_a_machine_taken_away_in_the_middle_is_replaced_and_the_run_started_again(
    drive, stand_in, tmp_path
):
    then(
        tmp_path,
        f"""
if not (bucket / "checkpoint").exists():
    time.sleep(0.2)
    if host == "host0":
        (bucket / "checkpoint").touch()
        Path({str(stand_in / "preempted")!r}).touch()
    time.sleep(60)
""",
    )
    status, logged = drive(spot=True)
    assert status == 0
    once = ["create", "describe", "scp", "ssh"]
    assert verbs(stand_in) == [*once, "describe", "delete", *once, "delete"]
    assert lines_run(tmp_path, "host0") == [["--workdir=gs://b/x", HOSTILE]] * 2
    assert sum("was reclaimed (SUSPENDED), 1 times so far" in one for one in logged) == 1


def test_a_machine_taken_away_while_waiting_too_often_is_given_up(drive, stand_in):
    scenario(stand_in, [["PROVISIONING", "SUSPENDING"]] * 3)
    with pytest.raises(UserError, match="was reclaimed 3 times, and --max_preemptions=2"):
        drive(max_preemptions=2, wait_hours=1, keep=True)
    assert verbs(stand_in) == ["create", "describe", "delete"] * 3


def test_a_failure_is_the_exit_status_with_the_logs_and_no_second_try(
    drive, stand_in, tmp_path, capfd
):
    then(tmp_path, "if host == 'host1': print('no such file', flush=True); sys.exit(3)")
    status, logged = drive()
    assert status == 3
    assert any("the run failed on a-run, exit status 3" in one for one in logged)
    out = capfd.readouterr().out
    assert "] no such file\n" in out
    assert "] step 1 on host0\n" in out
    assert [words[3] for words in log(stand_in)].count("create") == 1
    assert verbs(stand_in)[-1] == "delete"


def test_a_run_that_vanishes_has_failed(drive, tmp_path):
    then(tmp_path, "import signal; os.kill(os.getppid(), signal.SIGKILL)")
    status, logged = drive()
    assert status == 1
    assert any("exit status lost" in one for one in logged)


def test_a_dropped_connection_is_made_again_and_the_run_goes_on(drive, stand_in, tmp_path, capfd):
    then(
        tmp_path,
        f"""
if host == "host0":
    time.sleep(0.5)
    dropped = Path({str(stand_in / "dropped")!r})
    dropped.touch()
    while dropped.exists():
        time.sleep(0.02)
    time.sleep(0.5)
""",
    )
    assert drive()[0] == 0
    commands = [words[-1] for words in log(stand_in) if words[3] == "ssh"]
    followed = [command for command in commands if "tail -n" in command]
    assert ["tail -n +1 " in command for command in followed] == [True, False]
    assert len(lines_run(tmp_path, "host0")) == 1
    assert "the end on host0\n" in capfd.readouterr().out


def test_a_run_is_not_started_twice(drive, tmp_path):
    drive(keep=True)
    command = tpu_vm.start(machine())
    assert subprocess.run(command).returncode == 0
    time.sleep(0.3)
    assert len(lines_run(tmp_path, "host0")) == 1


def test_a_request_that_fails_says_why_and_is_deleted(drive, stand_in):
    scenario(stand_in, [["CREATING", "FAILED"]])
    with pytest.raises(UserError, match=r"^a-run is FAILED: no capacity$"):
        drive()
    assert verbs(stand_in) == ["create", "describe", "delete"]


def test_a_name_that_is_taken_is_not_deleted(drive, stand_in):
    scenario(stand_in, [["ACTIVE"]], fail="create")
    with pytest.raises(UserError, match="could not be requested"):
        drive()
    assert verbs(stand_in) == ["create"]


def test_a_machine_that_never_comes_is_given_up_and_deleted(drive, stand_in, monkeypatch):
    scenario(stand_in, [["WAITING_FOR_RESOURCES"]])
    monkeypatch.setattr(tpu_vm, "_POLL_SECONDS", 1200)
    with pytest.raises(UserError, match="still WAITING_FOR_RESOURCES after --wait_hours=1"):
        drive(wait_hours=1)
    assert [words[3] for words in log(stand_in)] == ["create", *["describe"] * 3, "delete"]


@pytest.mark.parametrize("verb", ["scp", "ssh"])
def test_a_step_that_fails_on_a_machine_that_is_there_is_an_error(drive, stand_in, verb):
    scenario(stand_in, [["ACTIVE"]], fail=verb)
    with pytest.raises(UserError, match="failed on a-run, with status 1"):
        drive()
    assert verbs(stand_in)[-3:] == [verb, "describe", "delete"]


def test_keep_leaves_the_machine_and_says_how_to_delete_it(drive, stand_in):
    _, logged = drive(keep=True)
    assert "delete" not in verbs(stand_in)
    assert logged[-1].endswith(shlex.join(tpu_vm.delete(machine())))


def test_a_deletion_that_fails_is_told(drive, stand_in):
    scenario(stand_in, [["ACTIVE"]], fail="delete")
    status, logged = drive()
    assert status == 0
    assert logged[-1].startswith(
        "a-run may still exist, and cost money; delete it: gcloud compute tpus"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_launch_deletes_the_machine(stand_in, number):
    scenario(stand_in, [["WAITING_FOR_RESOURCES"]])
    flags = [
        "--target=tpu-vm",
        "--zone=z",
        "--accelerator=v4-8",
        "--workdir=gs://b/x",
        "--name=a-run",
    ]
    launcher = subprocess.Popen(
        [sys.executable, "launch.py", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in the background inherit that the signal is ignored.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    for line in launcher.stderr:
        if "WAITING_FOR_RESOURCES" in line:
            break
    launcher.send_signal(number)
    _, error = launcher.communicate(timeout=30)
    assert launcher.returncode == 130
    assert error == "deleting a-run\n\ninterrupted\n"
    assert verbs(stand_in) == ["create", "describe", "delete"]


def test_a_machine_without_gcloud_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^gcloud is not installed"):
        tpu_vm.call_gcloud(["gcloud", "version"], True)
