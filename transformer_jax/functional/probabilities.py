"""From logits to probabilities: what given tokens get, and what several models agree on."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array


def token_log_probs(logits: Array, tokens: Array, *, pad_id: int) -> Array:
    """log softmax(logits) at `tokens`, in nats; 0 at padding.

    Args:
      logits: [B, T, V], of position t given what stands before it.
      tokens: int32 [B, T].

    Returns:
      float32 [B, T].
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    found = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    return jnp.where(tokens != pad_id, found, 0.0)


def ensemble(logits: Sequence[Array]) -> Array:
    """Logits of the mean of the models' probabilities: log(1/M Σ softmax(logits_m)).

    The logits of one model are returned as they are.

    Args:
      logits: M arrays [..., V].

    Returns:
      [..., V], float32 unless M = 1.
    """
    if len(logits) == 1:
        return logits[0]
    log_probs = [jax.nn.log_softmax(x.astype(jnp.float32)) for x in logits]
    return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - jnp.log(float(len(logits)))
