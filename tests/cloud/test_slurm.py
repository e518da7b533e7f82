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


def job(**options):
    defaults = {"name": "a_run", "command": ("python", "launch.py"), "folder": "/some where"}
    return slurm.SlurmJob(**defaults | options)


def directives(text):
    prefix = "#SBATCH --"
    found = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
    return {name: value for name, _, value in (one.partition("=") for one in found)}


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """batch(code of launch.py, *flags) -> the script, started as sbatch would start it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    scontrol = f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n'
    for name, text in (("srun", SRUN), ("scontrol", scontrol)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    folder = tmp_path / "a 'check' out"
    folder.mkdir()

    def start(code, *flags):
        (folder / "launch.py").write_text(code)
        command = (sys.executable, "launch.py", *flags)
        script = tmp_path / "job.sh"
        script.write_text(slurm.script(job(command=command, folder=str(folder))), encoding="utf-8")
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
        return subprocess.Popen(
            ["bash", str(script)], cwd=tmp_path, stdout=subprocess.PIPE, encoding="utf-8"
        )

    return start


def test_one_task_per_gpu_on_every_node_all_of_which_see_its_gpus():
    text = slurm.script(job(nodes=2, gpus_per_node=7, time="1-12:00:00"))
    assert directives(text) == {
        "job-name": "a_run",
        "time": "1-12:00:00",
        "nodes": "2",
        "ntasks-per-node": "7",
        "gres": "gpu:7",
        "output": "a_run-%j.log",
        "open-mode": "append",
        "requeue": "",
        "signal": "B:USR1@120",
    }
    assert text.startswith("#!/bin/bash\n")
    # sbatch stops reading options at the first line of the script proper.
    lines = text.splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[:last])


def test_cpus_alone_are_one_task_per_node_and_what_is_not_asked_for_is_left_to_the_cluster():
    options = directives(slurm.script(job(gpus_per_node=0)))
    assert options["ntasks-per-node"] == "1"
    assert not {"gres", "time"} & set(options)


def test_the_script_runs_the_launch_line_as_it_is(batch, tmp_path):
    running = batch(LAUNCH, "--workdir=runs/x", HOSTILE)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 0
    assert json.loads(out) == ["--workdir=runs/x", HOSTILE]
    assert not list(tmp_path.rglob("pwned"))
    assert not (tmp_path / "requeued").exists()


def test_the_exit_status_is_the_runs(batch):
    running = batch("import sys; sys.exit(3)\n")
    running.communicate(timeout=30)
    assert running.returncode == 3


def test_before_the_time_limit_the_job_is_requeued_and_the_run_still_waited_for(batch, tmp_path):
    code = LAUNCH + "import time, sys\ntime.sleep(1)\nprint('saved')\nsys.exit(5)\n"
    running = batch(code)
    assert running.stdout.readline() == "[]\n"
    running.send_signal(signal.SIGUSR1)
    out, _ = running.communicate(timeout=30)
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert out == "saved\n"
    assert running.returncode == 5


@pytest.mark.parametrize("option", ["name", "time"])
@pytest.mark.parametrize("value", ["a b", "a\n#SBATCH --nodes=99", "$(a)", "a'b"])
def test_a_value_that_would_be_misread_is_refused(option, value):
    with pytest.raises(UserError, match=f"--{option}="):
        slurm.script(job(**{option: value}))
