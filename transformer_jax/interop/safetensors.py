"""A trained model in one safetensors file, for notebooks and other programs.

folder = Path("exported")
config, tokenizers = configs.load(folder / "config.json"), Tokenizers.load(folder)
params = load_safetensors(folder / "model.safetensors")
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
from transformer_jax.errors import UserError
from transformer_jax.interop.formats import refuse_not_finite, refuse_used, require
from transformer_jax.storage import make_folder, write_whole

MODEL_FILE = "model.safetensors"


def export_safetensors(config: Config, params: Any, tokenizers: Tokenizers, output: Path) -> None:
    """Writes model.safetensors, config.json and the tokenizer as in a workdir.

    A tensor's name is its path, e.g. "encoder_0/self_attention/query_kernel"; its axes are the
    model's own ([D, N, H] for that one).

    Args:
      config: of the model.
      params: its parameters.
      tokenizers: its tokenizers.
      output: a folder, empty or not there yet.

    Raises:
      UserError: if the folder is not empty or cannot be written, or safetensors is not installed.
    """
    safetensors = require("safetensors.numpy")
    refuse_not_finite(params)
    refuse_used(output, "--output")
    make_folder(output)
    flat = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    # A view would be saved as the memory behind it is laid out.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in flat.items()}
    metadata = {"format": "flax", "experiment": config.name}
    write_whole(output / MODEL_FILE, safetensors.save(tensors, metadata))
    tokenizers.save(output)
    save_config(config, output / CONFIG_FILE)


def load_safetensors(path: Path) -> dict[str, Any]:
    """The parameters in a file that `export_safetensors` wrote.

    Raises:
      UserError: if the file is missing or damaged, or safetensors is not installed.
    """
    safetensors = require("safetensors.numpy")
    try:
        return traverse_util.unflatten_dict(safetensors.load(path.read_bytes()), sep="/")
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    except require("safetensors").SafetensorError as e:
        raise UserError(f"{path} is damaged: {e}") from None
