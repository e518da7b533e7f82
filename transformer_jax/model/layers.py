"""What a layer of the Transformer is made of: attention, feed-forward, residual and dropout.

Modules own parameters and call functional/. `capture_intermediates` records what their methods
return; other intermediate arrays are sown, and computed only if the caller asks for them.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jax import Array

from transformer_jax.config.options import ModelConfig
from transformer_jax.functional import attention, layers
from transformer_jax.functional.fused_attention import FUSED
from transformer_jax.functional.masks import SegmentMask


@flax.struct.dataclass
class Dropout:
    """Keys and rates of dropout. The default drops nothing, as in inference.

    Attributes:
      rngs: PRNG keys [B], one per row; None = no dropout.
      rate: on embeddings and sub-layer outputs; None = none.
      attention_rate: on attention weights; None = none.
      activation_rate: after the activation of the feed-forward layer; None = none.
    """

    rngs: Array | None = None
    rate: Array | float | None = None
    attention_rate: Array | float | None = None
    activation_rate: Array | float | None = None

    def fold_in(self, number: int) -> "Dropout":
        """The same rates with keys of their own, for the `number`-th part of a module."""
        return self.replace(rngs=layers.fold_in_rows(self.rngs, number))

    def __call__(self, x: Array) -> Array:
        """Drops entries of x [B, ...] at `rate`."""
        return layers.dropout(x, self.rngs, self.rate)


NO_DROPOUT = Dropout()
SEEN = "intermediates"  # linen's name for what modules sow
Mask = Array | SegmentMask


def _kernel_init(config: ModelConfig, in_axis: Any, out_axis: Any) -> nn.initializers.Initializer:
    init = getattr(nn.initializers, config.kernel_init)
    return init(in_axis=in_axis, out_axis=out_axis)


class Attention(nn.Module):
    """Multi-head attention (section 3.2.2)."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        d_key = c.d_key or c.d_model // c.num_heads
        d_value = c.d_value or c.d_model // c.num_heads

        def project(name: str, width: int) -> tuple[Array, Array | None]:
            shape = (c.d_model, c.num_heads, width)
            kernel = self.param(f"{name}_kernel", _kernel_init(c, 0, (1, 2)), shape)
            return kernel, self._bias(f"{name}_bias", shape[1:])

        self.query = project("query", d_key)
        self.key = project("key", d_key)
        self.value = project("value", d_value)
        shape = (c.num_heads, d_value, c.d_model)
        kernel = self.param("output_kernel", _kernel_init(c, (0, 1), 2), shape)
        self.output = kernel, self._bias("output_bias", (c.d_model,))

    def _bias(self, name: str, shape: tuple[int, ...]) -> Array | None:
        if not self.config.attention_bias:
            return None
        return self.param(name, nn.initializers.zeros, shape)

    def keys_values(self, x: Array) -> tuple[Array, Array]:
        """The key [B, S, N, H] and value [B, S, N, Hv] of x [B, S, D]."""
        return _project(x, self.key), _project(x, self.value)

    def attend(self, x: Array, key: Array, value: Array, mask: Mask, dropout: Dropout) -> Array:
        """Attends from x [B, T, D] over key [B, S, N, H] and value [B, S, N, Hv]: [B, T, D].

        An array as the mask selects the plain attention, a `SegmentMask` the fused one.
        """
        query = _project(x, self.query)
        if isinstance(mask, SegmentMask):
            implementation = self.config.attention
            if dropout.rngs is not None and dropout.attention_rate is not None:
                raise ValueError(f"model.attention={implementation!r} has no attention dropout")
            heads = FUSED[implementation](query, key, value, mask)
        else:
            heads = attention.scaled_dot_product_attention(
                query,
                key,
                value,
                mask,
                dropout_rngs=dropout.rngs,
                dropout_rate=dropout.attention_rate,
            )
            if self.is_mutable_collection(SEEN):
                self._show(query, key, mask, heads)
        kernel, bias = self.output
        return attention.merge_heads(heads, kernel.astype(x.dtype), bias)

    def _show(self, query: Array, key: Array, mask: Array, heads: Array) -> None:
        """Sows the arrays that `attend` computes but does not return."""
        scores = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=jnp.float32)
        weights = attention.attention_weights(query, key, mask)
        seen = {"query": query, "scores": scores, "mask": mask, "weights": weights, "heads": heads}
        for name, array in seen.items():
            self.sow(SEEN, name, array)

    def __call__(self, x: Array, memory: Array, mask: Mask, dropout: Dropout) -> Array:
        """Queries from x [B, T, D], keys and values from memory [B, S, D]: [B, T, D]."""
        return self.attend(x, *self.keys_values(memory), mask, dropout)


def _project(x: Array, weights: tuple[Array, Array | None]) -> Array:
    kernel, bias = weights
    return attention.split_heads(x, kernel.astype(x.dtype), bias)


class FeedForward(nn.Module):
    """Position-wise feed-forward network (section 3.3)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array, dropout: Dropout) -> Array:
        """[B, T, D] → [B, T, D]."""
        c = self.config
        init, zeros = _kernel_init(c, 0, 1), nn.initializers.zeros
        w1 = self.param("w1", init, (c.d_model, c.d_ff))
        b1 = self.param("b1", zeros, (c.d_ff,))
        w2 = self.param("w2", init, (c.d_ff, c.d_model))
        b2 = self.param("b2", zeros, (c.d_model,))
        w1, w2 = w1.astype(x.dtype), w2.astype(x.dtype)
        if self.is_mutable_collection(SEEN):
            self.sow(SEEN, "hidden", layers.ACTIVATIONS[c.activation](layers.add_bias(x @ w1, b1)))
        return layers.feed_forward(
            x,
            *(w1, b1, w2, b2),
            activation=c.activation,
            dropout_rngs=dropout.rngs,
            dropout_rate=dropout.activation_rate,
        )


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016)."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., D] → [..., D]."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return layers.layer_norm(x, scale, bias, epsilon=self.epsilon)


class Residual(nn.Module):
    """LayerNorm(x + Sublayer(x)) (section 3.1), or x + Sublayer(LayerNorm(x)) when norm="pre"."""

    config: ModelConfig

    def setup(self) -> None:
        self.norm = LayerNorm(self.config.layer_norm_epsilon)

    def before(self, x: Array) -> Array:
        """What the sub-layer reads."""
        return self.norm(x) if self.config.norm == "pre" else x

    def after(self, x: Array, output: Array, dropout: Dropout) -> Array:
        """Adds the sub-layer's output, with dropout (section 5.4), to x."""
        x = x + dropout(output)
        return x if self.config.norm == "pre" else self.norm(x)
