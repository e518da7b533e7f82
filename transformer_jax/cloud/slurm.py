"""A run as a Slurm job for `sbatch`, which is requeued when it is preempted or out of time."""

import dataclasses
import re
import shlex

from transformer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SlurmJob:
    """The resources of a job, and its command."""

    name: str
    command: tuple[str, ...]  # Python, launch.py, its flags
    folder: str  # where the command runs, on a file system that all nodes share
    nodes: int = 1
    gpus_per_node: int = 1  # 0 = CPUs only
    time: str = ""  # as for sbatch; "" = the cluster's default


def script(job: SlurmJob) -> str:
    """The batch script.

    There is one task per GPU, and every task sees all GPUs of its node: jax.distributed gives task
    i of a node its device i, which --gpus-per-task would hide.

    Raises:
      UserError: if a value cannot be written on an #SBATCH line.
    """
    options = {
        "job-name": job.name,
        "time": job.time,
        "nodes": str(job.nodes),
        "ntasks-per-node": str(max(job.gpus_per_node, 1)),
        "gres": f"gpu:{job.gpus_per_node}" if job.gpus_per_node else "",
        "output": f"{job.name}-%j.log",
    }
    for flag, value in (("name", job.name), ("time", job.time)):
        if not re.fullmatch(r"[\w.,:+-]*", value):
            raise UserError(f"--{flag}={value!r} has a character that sbatch would misread")
    directives = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    return _SCRIPT.format(
        directives="\n".join(directives),
        folder=shlex.quote(job.folder),
        command=shlex.join(job.command),
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
