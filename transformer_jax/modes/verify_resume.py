"""Prove that a killed run resumes exactly: compare it with an uninterrupted one.

Trains the experiment twice, once without interruption and once with SIGKILL at seeded places, also
during saves, and compares every loss and every array bit for bit.

Example:
    launch.py --mode=verify_resume --kills=8
"""

from transformer_jax import storage
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch, command


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.whole("kills", "Number of times to kill the run.", default=8, at_least=1)


def run(launch: Launch) -> int:
    """Prints the report; returns 0 if the two runs are the same."""
    from transformer_jax.modes import resume_proof

    line = [*command(), *launch.child_arguments(["config", "sweep_index"])]
    folder = storage.path(launch["workdir"] or f"runs/{launch.config.name}_resume")
    report = resume_proof.prove(launch.config, line, folder, kills=launch["kills"])
    print(report.text)
    return 0 if report.passed else 1
