"""Compare two evaluated workdirs: BLEU and chrF with a paired bootstrap, options, sentences.

Example:
    launch.py --mode=compare --workdir=runs/a --other=runs/b --split=valid
"""

from absl import flags
from absl.flags import FlagValues

from transformer_jax.modes import shared
from transformer_jax.modes.launch import Launch


def define(values: FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("other", None, "Workdir to compare --workdir with.", flag_values=values)
    shared.define_split(values)


def run(launch: Launch) -> int:
    """Prints the comparison."""
    from transformer_jax.evaluation import comparison

    print(comparison.compare(launch.workdir, launch.path("other"), split=launch["split"]))
    return 0
