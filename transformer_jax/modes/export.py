"""Export a trained model to another program.

Example:
    launch.py --mode=export --format=ctranslate2 --workdir=runs/mine --output=served
"""

from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.choice("format", "Format to write.", ["marian", "ctranslate2", "safetensors"])
    flags.text("quantization", "Type of the weights, for ctranslate2: int8, float16, ….", "")
    flags.weights()
    flags.path("output", "Folder to write, which must be empty or not exist.")


def run(launch: Launch) -> int:
    """Writes the model."""
    from transformer_jax.interop import formats

    model, output = launch.load_model(), launch.local_path("output")
    formats.export_model(launch["format"], model, output, launch["quantization"])
    return 0
