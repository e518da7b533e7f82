"""Import a model of another program: makes a workdir of it, to translate and evaluate with.

Example:
    launch.py --mode=import --format=marian --input=opus-mt-zh-en --workdir=runs/opus
"""

from absl import flags
from absl.flags import FlagValues

from transformer_jax.modes.launch import Launch


def define(values: FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_enum("format", None, ["marian"], "Format of the model.", flag_values=values)
    flags.DEFINE_string("input", None, "Folder of the model.", flag_values=values)


def run(launch: Launch) -> int:
    """Writes the workdir."""
    from transformer_jax.interop import formats

    formats.import_model(launch["format"], launch.local_path("input"), launch.workdir)
    return 0
