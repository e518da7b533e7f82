"""Adam and its learning-rate schedules (Vaswani et al. 2017, section 5.3).

Everything here takes its numbers as arguments that may be traced, so that a sweep can change them,
or be vmapped over them, without a recompilation.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from transformer_jax.errors import UserError


def inverse_sqrt_schedule(
    step: Array, *, d_model: int, warmup_steps: Array | float, scale: Array | float = 1.0
) -> Array:
    """scale · d_model^-0.5 · min(step^-0.5, step · warmup_steps^-1.5) (equation 3).

    Args:
      step: the number of this update, from 1.
      d_model: width of the model.
      warmup_steps: updates until the peak.
      scale: factor of our own; the paper's is 1.

    Returns:
      The learning rate of this update, float32.
    """
    step = jnp.asarray(step, jnp.float32)
    return scale * d_model**-0.5 * jnp.minimum(step**-0.5, step * warmup_steps**-1.5)


def cosine_schedule(
    step: Array, *, num_steps: int, warmup_steps: Array | float, scale: Array | float
) -> Array:
    """Linear from 0 to `scale` over `warmup_steps`, then half a cosine to 0 at `num_steps`.

    Not in the paper: for short runs, which the inverse square root leaves too hot at the end.

    Args:
      step: the number of this update, from 1.
      num_steps: updates in the run.
      warmup_steps: updates until the peak.
      scale: the peak learning rate.

    Returns:
      The learning rate of this update, float32.
    """
    step = jnp.asarray(step, jnp.float32)
    progress = (step - warmup_steps) / jnp.maximum(num_steps - warmup_steps, 1)
    decay = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
    return scale * jnp.minimum(step / warmup_steps, decay)


def adam(
    *,
    learning_rate: Array | float,
    beta1: Array | float,
    beta2: Array | float,
    epsilon: Array | float,
    clip_norm: Array | float | None = None,
    weight_decay: Array | float | None = None,
    frozen: str = "",
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), after clipping to a global norm when one is given.

    Args:
      learning_rate: of this update.
      beta1, beta2, epsilon: Adam's.
      clip_norm: the largest global norm of the gradient; None = any.
      weight_decay: how much of each matrix is taken off, times the learning rate, apart from the
        moments (AdamW, Loshchilov & Hutter 2019); biases and norms keep theirs. None = nothing.
      frozen: of the parameters that this pattern matches there are no moments, and their gradients,
        which are 0, are passed on; see `trained`.
    """
    clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    moments = optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon)
    decay = []
    if weight_decay is not None:
        matrices = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
        decay = [optax.add_decayed_weights(weight_decay, matrices)]
    chain = optax.chain(*clip, moments, *decay, optax.scale_by_learning_rate(learning_rate))
    return optax.masked(chain, lambda params: trained(params, frozen)) if frozen else chain


def trained(params: Any, frozen: str) -> Any:
    """For each parameter whether it is trained: whether `frozen` is found nowhere in its path.

    Args:
      params: parameters, or what has their structure.
      frozen: a regular expression, as in "encoder|embedding"; paths are as in
        "encoder_0/self_attention/query_kernel".

    Raises:
      UserError: if it matches no parameter, or all of them.
    """
    keystr = jax.tree_util.keystr
    paths = jax.tree_util.tree_map_with_path(
        lambda path, _: keystr(path, simple=True, separator="/"), params
    )
    found = jax.tree.map(lambda path: re.search(frozen, path) is None, paths)
    values, names = jax.tree.leaves(found), jax.tree.leaves(paths)
    if len(set(values)) == 1:
        which = "no" if values[0] else "every"
        parts = ", ".join(dict.fromkeys(name.partition("/")[0] for name in names))
        raise UserError(f"train.frozen={frozen!r} matches {which} parameter: {parts}")
    return found


def without_gradients(params: Any, frozen: str) -> Any:
    """`params`, of which those that are frozen count as constants: no gradient is computed."""
    if not frozen:
        return params
    stop = lambda x, is_trained: x if is_trained else jax.lax.stop_gradient(x)  # noqa: E731
    return jax.tree.map(stop, params, trained(params, frozen))
