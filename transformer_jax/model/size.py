"""The size of a model and the operations of a training step, from shapes alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.config.options import Config
from transformer_jax.model.transformer import Transformer


def parameter_shapes(model: Transformer) -> Any:
    """The parameters' shapes and dtypes. Allocates nothing."""
    tokens = jnp.ones((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]


def count_parameters(params: Any) -> int:
    """The number of scalars in `params`, or in a tree of the same shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def forward_flops(config: Config) -> dict[str, int]:
    """Multiplications and additions of the matmuls of one forward pass over a global batch.

    Returns:
      "encoder" and "decoder": their projections and feed-forward networks; "attention": queries
      with keys and weights with values, in both; "logits".
    """
    c, d = config.model, config.data
    rows, source, target = d.batch_rows, d.source_row_length, d.target_row_length
    key, value = head_widths(config)
    # Of one position in one attention: the query and the output, or the key and the value.
    projections = 2 * c.d_model * c.num_heads * (key + value)
    feed_forward = 2 * 2 * c.d_model * c.d_ff
    pair = 2 * c.num_heads * (key + value)  # one position attending to another
    encoder, decoder = rows * c.encoder_depth, rows * c.decoder_depth
    pairs = encoder * source * source + decoder * (target * target + target * source)
    return {
        "encoder": encoder * source * (2 * projections + feed_forward),
        "decoder": decoder * (target * (3 * projections + feed_forward) + source * projections),
        "attention": pairs * pair,
        "logits": rows * target * 2 * c.d_model * d.vocab_size,
    }


def step_flops(config: Config) -> tuple[int, int]:
    """(what the model needs, what is computed) for a training step over a global batch.

    The backward pass takes two matmuls for each of the forward pass: the gradients of both its
    arguments. `model.remat` computes each layer a second time, which the model does not need.
    """
    forward = forward_flops(config)
    passes = 2 if config.train.r_drop else 1
    needed = 3 * passes * sum(forward.values())
    again = passes * (sum(forward.values()) - forward["logits"]) if config.model.remat else 0
    return needed, needed + again


def head_widths(config: Config) -> tuple[int, int]:
    c = config.model
    return c.d_key or c.d_model // c.num_heads, c.d_value or c.d_model // c.num_heads
