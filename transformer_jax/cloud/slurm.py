"""A launch line as a Slurm job, for `sbatch`: requeued when preempted or out of time."""

import dataclasses
import re
import shlex

from transformer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SlurmJob:
    """What is asked of Slurm.

    Attributes:
      name: of the job.
      command: the launch line, as a list: Python, launch.py, its flags.
      folder: where it runs; on a file system that all nodes share.
      nodes, gpus_per_node: machines, and GPUs of each; 0 = CPUs alone.
      partition, time: as sbatch takes them; "" = the cluster's default.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    nodes: int = 1
    gpus_per_node: int = 1
    partition: str = ""
    time: str = ""


def script(job: SlurmJob) -> str:
    """The batch script.

    One task per GPU, and every task sees all GPUs of its node, because jax.distributed gives task
    i of a node its device i: --gpus-per-task would hide that device from it.

    Raises:
      UserError: if a value could not stand on an #SBATCH line.
    """
    options = {
        "job-name": job.name,
        "partition": job.partition,
        "time": job.time,
        "nodes": str(job.nodes),
        "ntasks-per-node": str(max(job.gpus_per_node, 1)),
        "gres": f"gpu:{job.gpus_per_node}" if job.gpus_per_node else "",
        "output": f"{job.name}-%j.log",
    }
    for name, flag in (("job-name", "name"), ("partition", "partition"), ("time", "time")):
        if not re.fullmatch(r"[\w.,:+-]*", options[name]):
            raise UserError(f"--{flag}={options[name]!r} has a character that sbatch would misread")
    directives = [f"#SBATCH --{name}={value}" for name, value in options.items() if value]
    return _SCRIPT.format(
        directives="\n".join(directives),
        folder=shlex.quote(job.folder),
        command=shlex.join(job.command),
    )


_SCRIPT = """\
#!/bin/bash
# sbatch THIS_FILE: its options override those below, e.g. sbatch --account=… --cpus-per-task=8.
{directives}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120

# Two minutes before the time limit: into the queue again. The run goes on from its workdir.
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
