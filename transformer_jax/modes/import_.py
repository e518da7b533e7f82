"""Import a model of another program: makes a workdir of it, to translate and evaluate with.

Example:
    launch.py --mode=import --format=marian --input=opus-mt-zh-en --workdir=runs/opus
"""

from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.choice("format", "Format of the model.", ["marian"])
    flags.path("input", "Folder of the model.")


def run(launch: Launch) -> int:
    """Writes the workdir."""
    from transformer_jax.interop import formats

    formats.import_model(launch["format"], launch.local_path("input"), launch.workdir)
    return 0
