"""A trained model in one safetensors file, for notebooks and other programs.

from flax.traverse_util import unflatten_dict

folder = Path("exported")
config, tokenizers = load_config(folder / "config.json"), Tokenizers.load(folder)
params = unflatten_dict(safetensors.numpy.load_file(folder / "model.safetensors"), sep="/")
model = Transformer(config.model, tokenizers.target.vocab_size, tokenizers.source.vocab_size)
translator = Translator([model], tokenizers, config.decode)
translator.translate([params], ["我有一只猫"])
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from transformer_jax.config.files import CONFIG_FILE, save_config
from transformer_jax.config.options import Config
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.interop.requirements import require_empty, require_finite, require_package
from transformer_jax.storage import make_folder, write_whole

MODEL_FILE = "model.safetensors"


def export_safetensors(config: Config, params: Any, tokenizers: Tokenizers, output: Path) -> None:
    """Writes model.safetensors, and config.json and the tokenizers as in a workdir.

    A tensor has the path of its parameter as its name, e.g.
    "encoder_0/self_attention/query_kernel", and the parameter's own axes ([D, N, H] for that one).
    `output` must be empty or not exist.

    Raises:
      UserError: if the folder is not empty or cannot be written, or safetensors is not installed.
    """
    safetensors = require_package("safetensors.numpy")
    require_finite(params)
    require_empty(output, "--output")
    make_folder(output)
    flat = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    # safetensors saves the memory behind a view, in the order in which it lies.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in flat.items()}
    metadata = {"format": "flax", "experiment": config.name}
    write_whole(output / MODEL_FILE, safetensors.save(tensors, metadata))
    tokenizers.save(output)
    save_config(config, output / CONFIG_FILE)
