"""Attention: Vaswani et al. 2017, section 3.2."""

import jax
import jax.numpy as jnp
from jax import Array

from transformer_jax.functional.layers import add_bias, dropout


def attention_weights(query: Array, key: Array, mask: Array | None = None) -> Array:
    """softmax(QKᵀ/√d_k), masked before the softmax (section 3.2.1).

    The softmax is computed in float32 whatever the dtype of its arguments. Masked entries are
    exactly 0 and every row sums to 1, except that a row which may attend to nothing is all 0
    (padding; the paper does not define it, and a uniform row would leak padding into gradients).

    Args:
      query: [B, T, N, H].
      key: [B, S, N, H].
      mask: bool, broadcastable to [B, N, T, S]; True = may attend. None = all may.

    Returns:
      float32 [B, N, T, S].
    """
    scores = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    # A finite floor, not -inf: the softmax of a fully masked row would be nan on its way to 0.
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)


def scaled_dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None = None,
    *,
    dropout_rngs: Array | None = None,
    dropout_rate: Array | float | None = None,
) -> Array:
    """Attention(Q, K, V) = softmax(QKᵀ/√d_k)V (section 3.2.1, equation 1).

    Args:
      query: [B, T, N, H].
      key: [B, S, N, H].
      value: [B, S, N, Hv]; Hv may differ from H (Table 3, row B).
      mask: bool, broadcastable to [B, N, T, S]; True = may attend.
      dropout_rngs: PRNG keys [B], or None for no dropout on the weights. The paper has none;
        Tensor2Tensor's `attention_dropout` is this.
      dropout_rate: probability of dropping a weight.

    Returns:
      [B, T, N, Hv], in the dtype of `value`.
    """
    weights = attention_weights(query, key, mask)
    weights = dropout(weights, dropout_rngs, dropout_rate).astype(value.dtype)
    # As "btnh", the value would be the left factor, which takes a CPU three times as long.
    return jnp.einsum("bnts,bsnh->bnth", weights, value).swapaxes(1, 2)


def split_heads(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Projects to N heads at once: x W_i for every head i (section 3.2.2).

    Args:
      x: [B, T, D].
      kernel: [D, N, H].
      bias: float32 [N, H], or None as in the paper's formula.

    Returns:
      [B, T, N, H].
    """
    return add_bias(jnp.einsum("btd,dnh->btnh", x, kernel), bias)


def merge_heads(heads: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Concat(head_1, …, head_N) W_O (section 3.2.2): one linear layer over all the heads.

    Args:
      heads: [B, T, N, H].
      kernel: [N, H, D].
      bias: float32 [D], or None as in the paper's formula.

    Returns:
      [B, T, D].
    """
    return add_bias(jnp.einsum("btnh,nhd->btd", heads, kernel), bias)
