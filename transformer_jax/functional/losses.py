"""The training loss: Vaswani et al. 2017, section 5.4; and what R-Drop adds to it."""

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


def symmetric_divergence(logits: Array, others: Array, labels: Array, *, pad_id: int) -> Array:
    """Sum over real tokens of ½ KL(p ‖ q) + ½ KL(q ‖ p) of two predictions, p and q.

    It is Liang et al. 2021 ("R-Drop"), equation 2, written as ½ Σ (p - q)(log p - log q).

    Args:
      logits: of p, [B, T, V].
      others: of q, [B, T, V].
      labels: int32 [B, T]; a token whose label is `pad_id` does not count.
      pad_id: the label of padding.

    Returns:
      float32 scalar, in nats.
    """
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32)) for x in (logits, others))
    both = jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)
    return 0.5 * jnp.sum(jnp.where(labels != pad_id, both, 0.0))
