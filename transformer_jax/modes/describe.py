"""Describe the model of an experiment: the path, shape and size of every parameter.

Example:
    launch.py --mode=describe --config=experiments/wmt14_en_de_base.py
"""

import math

from transformer_jax import console
from transformer_jax.config.options import Config
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch


def define(flags: Flags) -> None:
    """Defines no flags of its own."""


def run(launch: Launch) -> int:
    """Prints the table."""
    print(describe(launch.config))
    return 0


def describe(config: Config) -> str:
    """The table of parameters: path, shape, number, and the total. Allocates nothing."""
    import jax

    from transformer_jax.model.size import count_parameters, parameter_shapes
    from transformer_jax.model.transformer import Transformer

    params = parameter_shapes(Transformer(config.model, config.data.vocab_size))
    rows = [
        ("/".join(k.key for k in path), str(x.shape), f"{math.prod(x.shape):,}")
        for path, x in jax.tree_util.tree_leaves_with_path(params)
    ]
    rows.append(("total", "", f"{count_parameters(params):,}"))
    return "\n".join(console.table(rows, left=2))
