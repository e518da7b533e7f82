"""The Transformer (Vaswani et al. 2017, section 3): modules own parameters and call functional/.

Two ways through the same parameters: `Transformer.__call__` sees whole targets at once (training,
scoring); `start_decoding` and `decode_step` produce one token at a time over a cache.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from transformer_jax.config import PAD_ID, ModelConfig
from transformer_jax.functional import attention, layers, masks, positions


@flax.struct.dataclass
class Dropout:
    """Where and how often to drop. The default drops nothing: inference.

    Attributes:
      rngs: PRNG keys [B], one per row; None = no dropout.
      rate: on embeddings and sub-layer outputs; None = none.
      attention_rate: on attention weights; None = none.
    """

    rngs: Array | None = None
    rate: Array | float | None = None
    attention_rate: Array | float | None = None

    def fold_in(self, number: int) -> "Dropout":
        """The same rates with keys of their own, for the `number`-th part of a module."""
        return self.replace(rngs=layers.fold_in_rows(self.rngs, number))

    def __call__(self, x: Array) -> Array:
        """Drops entries of x [B, ...] at `rate`."""
        return layers.dropout(x, self.rngs, self.rate)


NO_DROPOUT = Dropout()


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

    def attend(self, x: Array, key: Array, value: Array, mask: Array, dropout: Dropout) -> Array:
        """x [B, T, D] asks key [B, S, N, H] for value [B, S, N, Hv]: [B, T, D]."""
        heads = attention.scaled_dot_product_attention(
            _project(x, self.query),
            key,
            value,
            mask,
            dropout_rngs=dropout.rngs,
            dropout_rate=dropout.attention_rate,
        )
        return attention.merge_heads(heads, *_cast(self.output, x.dtype))

    def __call__(self, x: Array, memory: Array, mask: Array, dropout: Dropout) -> Array:
        """Queries from x [B, T, D], keys and values from memory [B, S, D]: [B, T, D]."""
        return self.attend(x, *self.keys_values(memory), mask, dropout)


def _cast(weights: Any, dtype: jnp.dtype) -> Any:
    return jax.tree.map(lambda w: w.astype(dtype), weights)


def _project(x: Array, weights: tuple[Array, Array | None]) -> Array:
    return attention.split_heads(x, *_cast(weights, x.dtype))


class FeedForward(nn.Module):
    """Position-wise feed-forward network (section 3.3)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, T, D] → [B, T, D]."""
        c = self.config
        init, zeros = _kernel_init(c, 0, 1), nn.initializers.zeros
        w1 = self.param("w1", init, (c.d_model, c.d_ff))
        b1 = self.param("b1", zeros, (c.d_ff,))
        w2 = self.param("w2", init, (c.d_ff, c.d_model))
        b2 = self.param("b2", zeros, (c.d_model,))
        weights = _cast((w1, b1, w2, b2), x.dtype)
        return layers.feed_forward(x, *weights, activation=c.activation)


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


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward (section 3.1)."""

    config: ModelConfig

    def setup(self) -> None:
        self.self_attention = Attention(self.config)
        self.self_attention_residual = Residual(self.config)
        self.feed_forward = FeedForward(self.config)
        self.feed_forward_residual = Residual(self.config)

    def __call__(self, x: Array, mask: Array, dropout: Dropout) -> Array:
        """x [B, S, D], mask [B, 1, S, S] → [B, S, D]."""
        y = self.self_attention_residual.before(x)
        y = self.self_attention(y, y, mask, dropout.fold_in(0))
        x = self.self_attention_residual.after(x, y, dropout.fold_in(1))
        y = self.feed_forward(self.feed_forward_residual.before(x))
        return self.feed_forward_residual.after(x, y, dropout.fold_in(2))


class DecoderLayer(nn.Module):
    """Masked self-attention, attention over the encoder's output, feed-forward (section 3.1)."""

    config: ModelConfig

    def setup(self) -> None:
        self.self_attention = Attention(self.config)
        self.self_attention_residual = Residual(self.config)
        self.cross_attention = Attention(self.config)
        self.cross_attention_residual = Residual(self.config)
        self.feed_forward = FeedForward(self.config)
        self.feed_forward_residual = Residual(self.config)

    def __call__(
        self, x: Array, encoded: Array, mask: Array, cross_mask: Array, dropout: Dropout
    ) -> Array:
        """x [B, T, D], encoded [B, S, D], masks [B, 1, T, T] and [B, 1, T, S] → [B, T, D]."""
        y = self.self_attention_residual.before(x)
        y = self.self_attention(y, y, mask, dropout.fold_in(0))
        x = self.self_attention_residual.after(x, y, dropout.fold_in(1))
        y = self.cross_attention_residual.before(x)
        y = self.cross_attention(y, encoded, cross_mask, dropout.fold_in(2))
        x = self.cross_attention_residual.after(x, y, dropout.fold_in(3))
        y = self.feed_forward(self.feed_forward_residual.before(x))
        return self.feed_forward_residual.after(x, y, dropout.fold_in(4))

    def step(self, x: Array, cache: dict, memory: dict, position: Array) -> tuple[Array, dict]:
        """One position: x [R, 1, D] → [R, 1, D] and the cache with this position's key, value.

        The R = B·K rows of x are K hypotheses of each of the B sentences in `memory`: they attend
        over it as K query positions, so that the memory is neither copied nor reordered.
        """
        y = self.self_attention_residual.before(x)
        key, value = self.self_attention.keys_values(y)
        cache = {
            "key": jax.lax.dynamic_update_slice_in_dim(cache["key"], key, position, axis=1),
            "value": jax.lax.dynamic_update_slice_in_dim(cache["value"], value, position, axis=1),
        }
        past = (jnp.arange(cache["key"].shape[1]) <= position)[None, None, None]
        y = self.self_attention.attend(y, cache["key"], cache["value"], past, NO_DROPOUT)
        x = self.self_attention_residual.after(x, y, NO_DROPOUT)
        y = self.cross_attention_residual.before(x)
        y = y.reshape(memory["key"].shape[0], -1, y.shape[-1])
        y = self.cross_attention.attend(
            y, memory["key"], memory["value"], memory["mask"], Dropout()
        )
        x = self.cross_attention_residual.after(x, y.reshape(x.shape), NO_DROPOUT)
        y = self.feed_forward(self.feed_forward_residual.before(x))
        return self.feed_forward_residual.after(x, y, NO_DROPOUT), cache


class Transformer(nn.Module):
    """The encoder–decoder Transformer (Figure 1).

    Attributes:
      config: the architecture.
      vocab_size: V, of the target, and of the source too unless given apart.
      source_vocab_size: of the source; None = the same.
    """

    config: ModelConfig
    vocab_size: int
    source_vocab_size: int | None = None

    def setup(self) -> None:
        c = self.config
        init = nn.initializers.normal(c.embedding_stddev or c.d_model**-0.5)

        def table(name: str, rows: int) -> Array:
            return self.param(name, init, (rows, c.d_model))

        source_size = self.source_vocab_size or self.vocab_size
        if c.tied_embeddings in ("all", "source_target"):
            if source_size != self.vocab_size:
                raise ValueError(
                    f"source_vocab_size={source_size} and vocab_size={self.vocab_size} cannot "
                    f"share a table: model.tied_embeddings={c.tied_embeddings!r}"
                )
            self.source_embedding = self.target_embedding = table("embedding", self.vocab_size)
        else:
            self.source_embedding = table("source_embedding", source_size)
            self.target_embedding = table("target_embedding", self.vocab_size)
        tied = c.tied_embeddings in ("all", "target_softmax")
        self.softmax = self.target_embedding if tied else table("softmax", self.vocab_size)
        zeros = nn.initializers.zeros
        bias = self.param("logits_bias", zeros, (self.vocab_size,)) if c.logits_bias else None
        self.logits_bias = bias
        if c.positions == "learned":
            self.source_positions = table("source_positions", c.max_positions)
            self.target_positions = table("target_positions", c.max_positions)
        self.encoder = [EncoderLayer(c) for _ in range(c.num_layers)]
        self.decoder = [DecoderLayer(c) for _ in range(c.num_layers)]
        if c.norm == "pre":
            self.encoder_norm = LayerNorm(c.layer_norm_epsilon)
            self.decoder_norm = LayerNorm(c.layer_norm_epsilon)

    def _embed(self, tokens: Array, positions_: Array, side: str, dropout: Dropout) -> Array:
        c = self.config
        table = self.source_embedding if side == "source" else self.target_embedding
        embedded = layers.embed(tokens, table, scale=c.scale_embeddings)
        if c.positions == "learned":
            table = self.source_positions if side == "source" else self.target_positions
            encoding = jnp.take(table, positions_, axis=0)
        else:
            encoding = positions.sinusoidal_positions(
                positions_, c.d_model, layout=c.sinusoid_layout
            )
        return dropout(embedded + encoding).astype(c.compute_dtype)

    def encode(
        self,
        source_tokens: Array,
        source_segments: Array | None = None,
        source_positions: Array | None = None,
        *,
        dropout: Dropout = NO_DROPOUT,
    ) -> Array:
        """The encoder.

        Args:
          source_tokens: int32 [B, S].
          source_segments: int32 [B, S], which pair of a packed row a token belongs to, 0 = padding;
            None = one sentence per row.
          source_positions: int32 [B, S], the position within its sentence; None = 0, 1, 2, …
          dropout: what to drop in training.

        Returns:
          [B, S, D] in the compute dtype.
        """
        source_segments, source_positions = _layout(
            source_tokens, source_segments, source_positions
        )
        mask = masks.segment_mask(source_segments, source_segments)
        x = self._embed(source_tokens, source_positions, "source", dropout.fold_in(0))
        for number, layer in enumerate(self.encoder, start=1):
            x = layer(x, mask, dropout.fold_in(number))
        return self.encoder_norm(x) if self.config.norm == "pre" else x

    def decode(
        self,
        decoder_input: Array,
        encoded: Array,
        source_segments: Array,
        target_segments: Array | None = None,
        target_positions: Array | None = None,
        *,
        dropout: Dropout = NO_DROPOUT,
    ) -> Array:
        """The decoder over whole targets: position t sees decoder_input up to t (teacher forcing).

        Args:
          decoder_input: int32 [B, T]: <bos> and the target without its <eos>.
          encoded: [B, S, D].
          source_segments: int32 [B, S].
          target_segments: int32 [B, T], or None = one sentence per row.
          target_positions: int32 [B, T], or None = 0, 1, 2, …
          dropout: what to drop in training.

        Returns:
          logits, float32 [B, T, V].
        """
        target_segments, target_positions = _layout(
            decoder_input, target_segments, target_positions
        )
        mask = masks.segment_mask(target_segments, target_segments)
        mask = mask & masks.causal_mask(decoder_input.shape[1])
        cross_mask = masks.segment_mask(target_segments, source_segments)
        x = self._embed(decoder_input, target_positions, "target", dropout.fold_in(0))
        for number, layer in enumerate(self.decoder, start=1):
            x = layer(x, encoded, mask, cross_mask, dropout.fold_in(number))
        return self._logits(x)

    def __call__(
        self,
        source_tokens: Array,
        decoder_input: Array,
        source_segments: Array | None = None,
        target_segments: Array | None = None,
        source_positions: Array | None = None,
        target_positions: Array | None = None,
        *,
        dropout: Dropout = NO_DROPOUT,
    ) -> Array:
        """Encodes, then decodes whole targets; arguments as in `encode` and `decode`.

        Returns:
          logits, float32 [B, T, V].
        """
        source_segments, source_positions = _layout(
            source_tokens, source_segments, source_positions
        )
        encoded = self.encode(
            source_tokens, source_segments, source_positions, dropout=dropout.fold_in(0)
        )
        return self.decode(
            decoder_input,
            encoded,
            source_segments,
            target_segments,
            target_positions,
            dropout=dropout.fold_in(1),
        )

    def start_decoding(
        self, source_tokens: Array, *, max_length: int, beam_size: int = 1
    ) -> tuple[dict, dict]:
        """Encodes [B, S] source tokens and allocates the cache of B·K hypotheses.

        Returns:
          (memory, cache). The memory stays as it is through decoding: for each layer the key
          [B, S, N, H], the value [B, S, N, Hv] and the mask [B, 1, 1, S] of the source. The cache
          holds, for each layer, the keys [B·K, max_length, N, H] and values of the tokens so far,
          and the scalar `position` of the next one.
        """
        c = self.config
        encoded = self.encode(source_tokens)
        mask = (source_tokens != PAD_ID)[:, None, None]
        rows = source_tokens.shape[0] * beam_size
        memory, cache = {}, {"position": jnp.zeros((), jnp.int32)}
        for number, layer in enumerate(self.decoder):
            key, value = layer.cross_attention.keys_values(encoded)
            memory[f"layer_{number}"] = {"key": key, "value": value, "mask": mask}
            shapes = [(rows, max_length, c.num_heads, x.shape[-1]) for x in (key, value)]
            cache[f"layer_{number}"] = {
                "key": jnp.zeros(shapes[0], key.dtype),
                "value": jnp.zeros(shapes[1], value.dtype),
            }
        return memory, cache

    def decode_step(self, memory: dict, cache: dict, tokens: Array) -> tuple[Array, dict]:
        """One step of the decoder for R = B·K hypotheses.

        Args:
          memory: from `start_decoding`.
          cache: from `start_decoding`, or from the step before.
          tokens: int32 [R], the tokens at this position, <bos> first.

        Returns:
          logits of the next tokens, float32 [R, V], and the cache for the next step.
        """
        position = cache["position"]
        x = self._embed(tokens[:, None], position[None, None], "target", NO_DROPOUT)
        new_cache = {"position": position + 1}
        for number, layer in enumerate(self.decoder):
            name = f"layer_{number}"
            x, new_cache[name] = layer.step(x, cache[name], memory[name], position)
        return self._logits(x)[:, 0], new_cache

    def _logits(self, x: Array) -> Array:
        if self.config.norm == "pre":
            x = self.decoder_norm(x)
        return layers.logits(x, self.softmax.astype(x.dtype), self.logits_bias)


def _layout(tokens: Array, segments: Array | None, positions_: Array | None) -> tuple[Array, Array]:
    if segments is None:
        segments = masks.padding_segments(tokens, pad_id=PAD_ID)
    if positions_ is None:
        positions_ = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return segments, positions_
