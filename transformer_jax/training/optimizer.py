"""Adam and its learning-rate schedules (Vaswani et al. 2017, section 5.3).

Everything here takes its numbers as arguments that may be traced, so that a sweep can change them,
or be vmapped over them, without a recompilation.
"""

import jax.numpy as jnp
import optax
from jax import Array


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
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), after clipping to a global norm when one is given."""
    clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    moments = optax.scale_by_adam(b1=beta1, b2=beta2, eps=epsilon)
    return optax.chain(*clip, moments, optax.scale_by_learning_rate(learning_rate))
