"""What surrounds attention: layer norm, feed-forward, embeddings, dropout."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

# "relu" is the paper's (section 3.3); "gelu" the exact one (Hendrycks & Gimpel 2016), as PyTorch's;
# "swish" x · sigmoid(x) (Ramachandran et al. 2017), as Marian's.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "swish": jax.nn.swish,
}


def layer_norm(x: Array, scale: Array, bias: Array, *, epsilon: float) -> Array:
    """Normalises the last axis to mean 0 and variance 1, then scales and shifts (Ba et al. 2016).

    Statistics are float32 whatever the dtype of `x`; the variance is the biased one.

    Args:
      x: [..., D].
      scale: [D].
      bias: [D].
      epsilon: added to the variance.

    Returns:
      [..., D], in the dtype of `x`.
    """
    x32 = x.astype(jnp.float32)
    mean = x32.mean(-1, keepdims=True)
    centred = x32 - mean
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon) * scale + bias).astype(x.dtype)


def add_bias(x: Array, bias: Array | None) -> Array:
    """x + bias, added in float32 whatever the dtype of `x`.

    The gradient of a bias is the sum over all positions: in bfloat16, which has 8 bits, adding 1
    to 256 changes nothing.

    Args:
      x: [..., D].
      bias: float32, broadcastable to `x`; None = nothing to add.

    Returns:
      [..., D], in the dtype of `x`.
    """
    return x if bias is None else (x.astype(jnp.float32) + bias).astype(x.dtype)


def feed_forward(
    x: Array,
    w1: Array,
    b1: Array,
    w2: Array,
    b2: Array,
    *,
    activation: str = "relu",
    dropout_rngs: Array | None = None,
    dropout_rate: Array | float | None = None,
) -> Array:
    """FFN(x) = max(0, xW₁ + b₁)W₂ + b₂ (Vaswani et al. 2017, section 3.3).

    Args:
      x: [B, T, D].
      w1: [D, F], in the dtype of `x`.
      b1: float32 [F].
      w2: [F, D], in the dtype of `x`.
      b2: float32 [D].
      activation: what stands for max(0, ·), one of `ACTIVATIONS`.
      dropout_rngs: PRNG keys [B] for dropout after the activation, which the paper does not have;
        None = no dropout.
      dropout_rate: its rate; None = no dropout.

    Returns:
      [B, T, D].
    """
    hidden = ACTIVATIONS[activation](add_bias(x @ w1, b1))
    return add_bias(dropout(hidden, dropout_rngs, dropout_rate) @ w2, b2)


def embed(tokens: Array, table: Array, *, scale: bool = True) -> Array:
    """Looks tokens up and multiplies by √d_model (Vaswani et al. 2017, section 3.4).

    Args:
      tokens: int32 [B, T].
      table: [V, D].
      scale: whether to multiply.

    Returns:
      [B, T, D].
    """
    embedded = jnp.take(table, tokens, axis=0)
    return embedded * table.shape[-1] ** 0.5 if scale else embedded


def logits(x: Array, table: Array, bias: Array | None = None) -> Array:
    """The pre-softmax linear transformation, by the embedding table itself (section 3.4).

    Args:
      x: [B, T, D].
      table: float32 [V, D]; multiplied in the dtype of `x`.
      bias: float32 [V], or None as in the paper.

    Returns:
      float32 [B, T, V].
    """
    table = table.astype(x.dtype)
    products = jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
    return products if bias is None else products + bias


def fold_in_rows(rngs: Array | None, number: int) -> Array | None:
    """One new PRNG key per row: fold_in(rngs[b], number). None (no dropout) stays None.

    Args:
      rngs: PRNG keys [B], or None.
      number: what to fold in, e.g. the number of a layer.

    Returns:
      PRNG keys [B], or None.
    """
    return None if rngs is None else jax.vmap(jax.random.fold_in, (0, None))(rngs, number)


def dropout(x: Array, rngs: Array | None, rate: Array | float | None) -> Array:
    """Zeroes entries with probability `rate` and scales the rest by 1 / (1 - rate).

    Row b is masked by its own key, so that what a row draws depends neither on the batch around
    it nor on the device it is on. The rate is rounded to 1/65536 (and the scale with it, so that
    the expectation is exact): one 32-bit draw then serves two entries, which halves the cost.

    Args:
      x: [B, ...].
      rngs: PRNG keys [B], or None for no dropout.
      rate: scalar in [0, 1), may be traced; or None for no dropout.

    Returns:
      [B, ...], in the dtype of `x`.
    """
    if rngs is None or rate is None:
        return x
    threshold = jnp.round(jnp.asarray(rate, jnp.float32) * 65536)
    threshold = jnp.minimum(threshold, 65535).astype(jnp.uint32)  # a rate near 1 keeps something
    row_size = x[0].size
    bits = jax.vmap(lambda rng: jax.random.bits(rng, ((row_size + 1) // 2,), jnp.uint32))(rngs)
    halves = jnp.concatenate([bits & 0xFFFF, bits >> 16], axis=1)
    keep = (halves[:, :row_size] >= threshold).reshape(x.shape)
    scale = 65536 / (65536 - threshold.astype(jnp.float32))
    return jnp.where(keep, (x * scale).astype(x.dtype), 0)
