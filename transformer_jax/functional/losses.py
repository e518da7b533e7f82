"""The training loss: Vaswani et al. 2017, section 5.4; and what R-Drop adds to it."""

from collections.abc import Callable
from functools import partial
from typing import Any

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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def sum_over_chunks(
    loss: Callable[[Any, Any, Array], Array], chunks: int, weights: Any, states: Any, labels: Array
) -> Array:
    """loss(weights, states, labels), computed for one chunk of the positions after the other.

    The logits of all positions, and their gradient, are most of a step's memory. Here neither
    exists: the gradient of a sum is the sum of the gradients, and each chunk's is taken as soon as
    its loss is known, so that the pass back computes no logits again.

    Args:
      loss: of positions, a sum over them; reads no traced value but its arguments.
      chunks: their number, which divides T; 1 computes all at once.
      weights: a tree of float arrays that every position reads.
      states: a tree of float arrays [B, T, ...].
      labels: int32 [B, T].

    Returns:
      float32 scalar.
    """
    each = lambda _, chunk: (None, loss(weights, *chunk))  # noqa: E731
    return jax.lax.scan(each, None, _chunked((states, labels), chunks))[1].sum()


def _sum_and_gradients(
    loss: Callable[[Any, Any, Array], Array], chunks: int, weights: Any, states: Any, labels: Array
) -> tuple[Array, Any]:
    def add(total: Any, chunk: tuple[Any, Array]) -> tuple[Any, Any]:
        value, (of_weights, of_states) = jax.value_and_grad(loss, (0, 1))(weights, *chunk)
        return jax.tree.map(jnp.add, total, (value, of_weights)), of_states

    zero = jax.tree.map(jnp.zeros_like, (jnp.float32(0), weights))
    (value, of_weights), of_states = jax.lax.scan(add, zero, _chunked((states, labels), chunks))
    join = lambda x, like: x.swapaxes(0, 1).reshape(like.shape)  # noqa: E731
    return value, (of_weights, jax.tree.map(join, of_states, states))


def _chunked(tree: Any, chunks: int) -> Any:
    """[B, T, ...] → [chunks, B, T / chunks, ...]: no row leaves its device."""
    cut = lambda x: x.reshape(x.shape[0], chunks, -1, *x.shape[2:]).swapaxes(0, 1)  # noqa: E731
    return jax.tree.map(cut, tree)


def _scale_gradients(
    loss: Callable, chunks: int, gradients: Any, cotangent: Array
) -> tuple[Any, Any, None]:
    return *jax.tree.map(lambda g: (g * cotangent).astype(g.dtype), gradients), None


sum_over_chunks.defvjp(_sum_and_gradients, _scale_gradients)
