"""Export a trained model to another program.

Example:
    launch.py --mode=export --format=ctranslate2 --workdir=runs/mine --output=served
"""

from absl import flags
from absl.flags import FlagValues

from transformer_jax.modes import shared
from transformer_jax.modes.launch import Launch

_FORMATS = ["marian", "ctranslate2", "safetensors"]


def define(values: FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_enum("format", None, _FORMATS, "Format to write.", flag_values=values)
    flags.DEFINE_string(
        "quantization",
        "",
        "Type of the weights, for ctranslate2: int8, float16, ….",
        flag_values=values,
    )
    shared.define_weights(values)
    shared.define_output(values, "Folder to write, which must be empty or not there yet.")


def run(launch: Launch) -> int:
    """Writes the model."""
    from transformer_jax.inference.trained import load
    from transformer_jax.interop import formats

    model = load(launch.workdir, config=launch.config, weights=launch["weights"])
    output = launch.local_path("output")
    formats.export_model(launch["format"], model, output, launch["quantization"])
    return 0
