"""A run as a Slurm job for `sbatch`, which is requeued when it is preempted or out of time."""

import re
import shlex
from collections.abc import Sequence

from transformer_jax.errors import UserError


def script(
    command: Sequence[str],
    *,
    name: str,
    folder: str,
    nodes: int = 1,
    gpus_per_node: int = 1,
    time: str = "",
) -> str:
    """The batch script.

    There is one task per GPU, and every task sees all GPUs of its node: jax.distributed gives task
    i of a node its device i, which --gpus-per-task would hide.

    Args:
      command: Python, launch.py, its flags.
      name: of the job.
      folder: where the command runs, on a file system that all nodes share.
      nodes: the number of machines.
      gpus_per_node: 0 = CPUs only.
      time: the limit, as for sbatch; "" = the cluster's default.

    Raises:
      UserError: if a value cannot be written on an #SBATCH line.
    """
    for flag, value in (("name", name), ("time", time)):
        if not re.fullmatch(r"[\w.,:+-]*", value):
            raise UserError(f"--{flag}={value!r} has a character that sbatch would misread")
    options = {
        "job-name": name,
        "time": time,
        "nodes": nodes,
        "ntasks-per-node": max(gpus_per_node, 1),
        "gres": f"gpu:{gpus_per_node}" if gpus_per_node else "",
        "output": f"{name}-%j.log",
    }
    lines = [f"#SBATCH --{option}={value}" for option, value in options.items() if value]
    return _SCRIPT.format(
        directives="\n".join(lines), folder=shlex.quote(folder), command=shlex.join(command)
    )


_SCRIPT = """\
#!/bin/bash
# sbatch THIS_FILE. Options of sbatch override these: sbatch --partition=… --account=… THIS_FILE
{directives}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# Two minutes before the time limit, the job is requeued. The run resumes from its workdir.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

cd {folder} || exit
srun --kill-on-bad-exit=1 {command} &
run=$!
# A signal ends `wait` before the run has ended.
until wait "$run"; do
    status=$?
    kill -0 "$run" 2> /dev/null || exit "$status"
done
"""
