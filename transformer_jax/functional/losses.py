"""The training loss: Vaswani et al. 2017, section 5.4."""

import jax
import jax.numpy as jnp
from jax import Array


def label_smoothed_cross_entropy(
    logits: Array, labels: Array, *, label_smoothing: Array | float, pad_id: int
) -> tuple[Array, Array]:
    """Sum over real tokens of the cross entropy against smoothed labels, and their number.

    The smoothed label is (1 - ε) · one-hot + ε / V over all V pieces, the target included
    (Szegedy et al. 2016, which the paper cites). It is a sum and a count, not a mean, so that sums
    from micro-batches and devices can be added before the one division.

    Args:
      logits: [B, T, V].
      labels: int32 [B, T]; `pad_id` does not count.
      label_smoothing: ε in [0, 1); may be traced.

    Returns:
      float32 scalars: the loss sum in nats, the number of tokens.
    """
    logits = logits.astype(jnp.float32)
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    expected = (1 - label_smoothing) * target + label_smoothing * logits.mean(axis=-1)
    real = labels != pad_id
    return jnp.sum(jnp.where(real, log_normaliser - expected, 0.0)), real.sum().astype(jnp.float32)
