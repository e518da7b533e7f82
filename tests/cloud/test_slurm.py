"""A Slurm job: its options, and what its script does under a stand-in for srun."""

import json
import os
import signal
import subprocess
import sys

import pytest

from transformer_jax.cloud import slurm
from transformer_jax.errors import UserError

HOSTILE = "--config.demo=我 'a' \"b\" $(touch pwned) `touch pwned`; touch pwned & {c} \\ #!"
# In place of srun: one task, under the variables from which jax.distributed knows the others.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] || exit 99
SLURM_PROCID=0 SLURM_LOCALID=0 exec "${@:2}"
"""
LAUNCH = "import json, sys; print(json.dumps(sys.argv[1:]), flush=True)\n"


def script(**options):
    defaults = {"name": "a_run", "command": ["python", "launch.py"], "folder": "/some where"}
    return slurm.script(**defaults | options)


def directives(text):
    prefix = "#SBATCH --"
    found = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
    return {name: value for name, _, value in (one.partition("=") for one in found)}


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """batch(code of launch.py, *flags) -> the script, started as sbatch would start it."""
    programs, folder = tmp_path / "bin", tmp_path / "a 'check' out"
    programs.mkdir()
    folder.mkdir()
    scontrol = f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n'
    for name, text in (("srun", SRUN), ("scontrol", scontrol)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")

    def start(code, *flags):
        (folder / "launch.py").write_text(code)
        file, command = tmp_path / "job.sh", (sys.executable, "launch.py", *flags)
        file.write_text(script(command=command, folder=str(folder)), encoding="utf-8")
        assert subprocess.run(["bash", "-n", file]).returncode == 0
        pipe = {"stdout": subprocess.PIPE, "encoding": "utf-8"}
        return subprocess.Popen(["bash", file], cwd=tmp_path, **pipe)

    return start


def test_one_task_per_gpu_on_every_node_all_of_which_see_its_gpus():
    text = script(nodes=2, gpus_per_node=7, time="1-12:00:00")
    every = {
        "job-name": "a_run",
        "output": "a_run-%j.log",
        "open-mode": "append",
        "requeue": "",
        "signal": "B:USR1@120",
    }
    tasks = {"nodes": "2", "ntasks-per-node": "7", "gres": "gpu:7", "time": "1-12:00:00"}
    assert directives(text) == every | tasks
    # What is not asked for is left to the cluster.
    assert directives(script(gpus_per_node=0)) == every | {"nodes": "1", "ntasks-per-node": "1"}
    # sbatch stops reading options at the first line of the script proper.
    options, _, _ = text.partition("\ntrap")
    assert text.startswith("#!/bin/bash\n") and options.count("#SBATCH") == text.count("#SBATCH")
    assert all(line.startswith("#") for line in filter(None, options.splitlines()))


@pytest.mark.parametrize("status", [0, 3])
def test_the_script_runs_the_launch_line_and_ends_with_its_status(batch, tmp_path, status):
    running = batch(f"{LAUNCH}sys.exit({status})", "--workdir=runs/x", HOSTILE)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == status
    assert json.loads(out) == ["--workdir=runs/x", HOSTILE]
    assert not list(tmp_path.rglob("pwned"))
    assert not (tmp_path / "requeued").exists()


def test_before_the_time_limit_the_job_is_requeued_and_waits_for_its_run(batch, tmp_path):
    running = batch(f"{LAUNCH}import time\ntime.sleep(1)\nprint('saved')\nsys.exit(5)\n")
    assert running.stdout.readline() == "[]\n"
    running.send_signal(signal.SIGUSR1)
    out, _ = running.communicate(timeout=30)
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert (out, running.returncode) == ("saved\n", 5)


@pytest.mark.parametrize("option", ["name", "time"])
@pytest.mark.parametrize("value", ["a b", "a\n#SBATCH --nodes=99", "$(a)", "a'b"])
def test_a_value_that_sbatch_would_misread_is_refused(option, value):
    with pytest.raises(UserError, match=f"--{option}="):
        script(**{option: value})
