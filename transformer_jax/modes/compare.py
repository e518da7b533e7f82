"""Compare two evaluated workdirs: BLEU and chrF with a paired bootstrap, options, sentences.

Example:
    launch.py --mode=compare --workdir=runs/a --other=runs/b --split=valid
"""

from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.path("other", "Workdir to compare --workdir with.")
    flags.split()


def run(launch: Launch) -> int:
    """Prints the comparison."""
    from transformer_jax.evaluation import comparison

    print(comparison.compare(launch.workdir, launch.path("other"), split=launch["split"]))
    return 0
