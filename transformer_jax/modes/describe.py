"""Describe the model of an experiment: the path, shape and size of every parameter.

They are those of the checkpoint in --workdir, if it has one of this model.

Example:
    launch.py --mode=describe --config=experiments/wmt14_en_de_base.py
"""

import math
from pathlib import Path
from typing import Any

from transformer_jax import console
from transformer_jax.config.files import CONFIG_FILE, differences, load_config
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import Config, flatten
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch


def define(flags: Flags) -> None:
    """Defines no flags of its own."""


def run(launch: Launch) -> int:
    """Prints the table."""
    print(describe(launch.run_config, launch.workdir))
    return 0


def describe(config: Config, workdir: Path | None = None) -> str:
    """The table of parameters: path, shape, number, and the total. Allocates nothing.

    They are those saved in `workdir`, if it has a checkpoint of the same model. Of a configuration
    alone, both vocabularies have data.vocab_size pieces.
    """
    import jax

    from transformer_jax.model.size import count_parameters, parameter_shapes
    from transformer_jax.model.transformer import Transformer

    params = _stored(config, workdir) if workdir else None
    if params is None:
        params = parameter_shapes(Transformer(config.model, config.data.vocab_size))
    rows = [
        ("/".join(k.key for k in path), str(x.shape), f"{math.prod(x.shape):,}")
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
    rows.append(("total", "", f"{count_parameters(params):,}"))
    return "\n".join(console.table(rows, left=2))


def _stored(config: Config, workdir: Path) -> Any:
    """The shapes of the latest checkpoint, or None if there is none of this model."""
    from transformer_jax.workdir import checkpoints, manifest

    steps = manifest.complete(workdir / manifest.FOLDER)
    if not steps or not (workdir / CONFIG_FILE).exists():
        return None
    saved = flatten(load_config(workdir / CONFIG_FILE))
    if differences(saved, flatten(config), Change.AFTER_TRAINING):
        return None
    return checkpoints.stored_shapes(workdir, steps[-1])
