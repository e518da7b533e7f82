"""The Transformer (Vaswani et al. 2017, section 3): its layers, and the whole model.

Two ways through the same parameters: `Transformer.__call__` sees whole targets at once (training,
scoring); `start_decoding` and `decode_step` produce one token at a time over a cache.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from transformer_jax.config.options import PAD_ID, ModelConfig
from transformer_jax.functional import layers, masks, positions
from transformer_jax.model.layers import (
    NO_DROPOUT,
    Attention,
    Dropout,
    FeedForward,
    LayerNorm,
    Mask,
    Residual,
)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward (section 3.1)."""

    config: ModelConfig

    def setup(self) -> None:
        self.self_attention = Attention(self.config)
        self.self_attention_residual = Residual(self.config)
        self.feed_forward = FeedForward(self.config)
        self.feed_forward_residual = Residual(self.config)

    def __call__(self, x: Array, mask: Mask, dropout: Dropout) -> Array:
        """x [B, S, D], mask [B, 1, S, S] → [B, S, D]."""
        y = self.self_attention_residual.before(x)
        y = self.self_attention(y, y, mask, dropout.fold_in(0))
        x = self.self_attention_residual.after(x, y, dropout.fold_in(1))
        y = self.feed_forward(self.feed_forward_residual.before(x), dropout.fold_in(3))
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
        self, x: Array, encoded: Array, mask: Mask, cross_mask: Mask, dropout: Dropout
    ) -> Array:
        """x [B, T, D], encoded [B, S, D], masks [B, 1, T, T] and [B, 1, T, S] → [B, T, D]."""
        y = self.self_attention_residual.before(x)
        y = self.self_attention(y, y, mask, dropout.fold_in(0))
        x = self.self_attention_residual.after(x, y, dropout.fold_in(1))
        y = self.cross_attention_residual.before(x)
        y = self.cross_attention(y, encoded, cross_mask, dropout.fold_in(2))
        x = self.cross_attention_residual.after(x, y, dropout.fold_in(3))
        y = self.feed_forward(self.feed_forward_residual.before(x), dropout.fold_in(5))
        return self.feed_forward_residual.after(x, y, dropout.fold_in(4))

    def step(self, x: Array, cache: dict, memory: dict, position: Array) -> tuple[Array, dict]:
        """One position: x [R, 1, D] → [R, 1, D] and the cache with this position's key, value.

        The R = B·K rows of x are K hypotheses of each of the B sentences in `memory`: they attend
        over it as K query positions, so that the memory is neither copied nor reordered.
        """
        y = self.self_attention_residual.before(x)
        new = _heads_first(*self.self_attention.keys_values(y))
        cache = {
            name: jax.lax.dynamic_update_slice_in_dim(cache[name], new[name], position, axis=2)
            for name in ("key", "value")
        }
        past = (jnp.arange(cache["key"].shape[2]) <= position)[None, None, None]
        y = self.self_attention.attend(y, *_keys_values(cache), past, NO_DROPOUT)
        x = self.self_attention_residual.after(x, y, NO_DROPOUT)
        y = self.cross_attention_residual.before(x)
        y = y.reshape(memory["key"].shape[0], -1, y.shape[-1])
        y = self.cross_attention.attend(y, *_keys_values(memory), memory["mask"], NO_DROPOUT)
        x = self.cross_attention_residual.after(x, y.reshape(x.shape), NO_DROPOUT)
        y = self.feed_forward(self.feed_forward_residual.before(x), NO_DROPOUT)
        return self.feed_forward_residual.after(x, y, NO_DROPOUT), cache


class Transformer(nn.Module):
    """The encoder–decoder Transformer (Figure 1).

    Attributes:
      config: the architecture.
      vocab_size: V, of the target; of the source, too, unless `source_vocab_size` is given.
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
        bias = ("logits_bias", nn.initializers.zeros, (self.vocab_size,))
        self.logits_bias = self.param(*bias) if c.logits_bias else None
        if c.positions == "learned":
            self.source_positions = table("source_positions", c.max_positions)
            self.target_positions = table("target_positions", c.max_positions)
        # Remat: the backward pass keeps each layer's input and computes the rest a second time.
        wrap = nn.remat if c.remat else lambda layer: layer
        self.encoder = [wrap(EncoderLayer)(c) for _ in range(c.encoder_depth)]
        self.decoder = [wrap(DecoderLayer)(c) for _ in range(c.decoder_depth)]
        if c.norm == "pre":
            self.encoder_norm = LayerNorm(c.layer_norm_epsilon)
            self.decoder_norm = LayerNorm(c.layer_norm_epsilon)

    def _embed(self, tokens: Array, positions_: Array, side: str, dropout: Dropout) -> Array:
        total = self.embedding_of(tokens, side) + self.encoding_of(positions_, side)
        return dropout(total).astype(self.config.compute_dtype)

    def embedding_of(self, tokens: Array, side: str) -> Array:
        """Tokens int32 [B, T] of the "source" or "target" → [B, T, D] (section 3.4)."""
        table = getattr(self, f"{side}_embedding")
        return layers.embed(tokens, table, scale=self.config.scale_embeddings)

    def encoding_of(self, positions_: Array, side: str) -> Array:
        """Positions int32 [B, T] of the "source" or "target" → [B, T, D] (section 3.5)."""
        c = self.config
        if c.positions == "learned":
            return jnp.take(getattr(self, f"{side}_positions"), positions_, axis=0)
        return positions.sinusoidal_positions(positions_, c.d_model, layout=c.sinusoid_layout)

    def mask_of(
        self, query_segments: Array, key_segments: Array, *, causal: bool = False, packed: bool
    ) -> Mask:
        """The mask for `Attention.attend`; fused kernels serve packed rows, in training."""
        mask = masks.SegmentMask(query_segments, key_segments, causal)
        return mask if packed and self.config.attention != "xla" else mask.dense()

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
          source_segments: int32 [B, S], the pair of a packed row that a token belongs to, 0 =
            padding; None = one sentence per row, of any length, with the plain attention.
          source_positions: int32 [B, S], the position within its sentence; None = 0, 1, 2, …
          dropout: what to drop in training.

        Returns:
          [B, S, D] in the compute dtype.
        """
        packed = source_segments is not None
        segments, positions_ = _layout(source_tokens, source_segments, source_positions)
        mask = self.mask_of(segments, segments, packed=packed)
        x = self._embed(source_tokens, positions_, "source", dropout.fold_in(0))
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
          target_segments: int32 [B, T], or None = one sentence per row, as in `encode`.
          target_positions: int32 [B, T], or None = 0, 1, 2, …
          dropout: what to drop in training.

        Returns:
          [B, T, D] in the compute dtype, which the softmax reads.
        """
        packed = target_segments is not None
        segments, positions_ = _layout(decoder_input, target_segments, target_positions)
        mask = self.mask_of(segments, segments, causal=True, packed=packed)
        cross_mask = self.mask_of(segments, source_segments, packed=packed)
        x = self._embed(decoder_input, positions_, "target", dropout.fold_in(0))
        for number, layer in enumerate(self.decoder, start=1):
            x = layer(x, encoded, mask, cross_mask, dropout.fold_in(number))
        return self.decoder_norm(x) if self.config.norm == "pre" else x

    def before_softmax(
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
        """Encodes, then decodes whole targets; arguments and result as in `encode` and `decode`."""
        encoded = self.encode(
            source_tokens, source_segments, source_positions, dropout=dropout.fold_in(0)
        )
        source_segments, _ = _layout(source_tokens, source_segments, source_positions)
        rest = source_segments, target_segments, target_positions
        return self.decode(decoder_input, encoded, *rest, dropout=dropout.fold_in(1))

    def __call__(self, *inputs: Array | None, dropout: Dropout = NO_DROPOUT) -> Array:
        """The logits, float32 [B, T, V]; arguments as in `before_softmax`."""
        states = self.before_softmax(*inputs, dropout=dropout)
        return layers.logits(states, self.softmax, self.logits_bias)

    def start_decoding(
        self, source_tokens: Array, *, max_length: int, beam_size: int = 1
    ) -> tuple[dict, dict]:
        """Encodes [B, S] source tokens and allocates the cache of B·K hypotheses.

        Returns:
          (memory, cache). The memory does not change while decoding: for each layer the key
          [B, N, S, H], the value [B, N, S, Hv] and the mask [B, 1, 1, S] of the source. The cache
          holds, for each layer, the keys [B·K, N, max_length, H] and values of the tokens so far,
          and the scalar `position` of the next one. Heads come first, as attention's products read
          them: otherwise every step would transpose the whole cache.
        """
        encoded = self.encode(source_tokens)
        mask = (source_tokens != PAD_ID)[:, None, None]
        rows = source_tokens.shape[0] * beam_size
        memory, cache = {}, {"position": jnp.zeros((), jnp.int32)}
        for number, layer in enumerate(self.decoder):
            source = _heads_first(*layer.cross_attention.keys_values(encoded))
            memory[f"layer_{number}"] = source | {"mask": mask}
            cache[f"layer_{number}"] = {
                name: jnp.zeros((rows, x.shape[1], max_length, x.shape[3]), x.dtype)
                for name, x in source.items()
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
        x = self.decoder_norm(x) if self.config.norm == "pre" else x
        return _few_logits(x[:, 0], self.softmax, self.logits_bias), new_cache


def _few_logits(x: Array, table: Array, bias: Array | None) -> Array:
    """`layers.logits` of R positions, x [R, D] → float32 [R, V], with the table as the left factor.

    On a CPU that takes 0.6 of the time for 4 or 32 rows and 32,000 pieces, and no less for 128. The
    compiler swaps the factors of a product that is transposed, unless something stands between.
    """
    if x.shape[0] > 64:
        return layers.logits(x[:, None], table, bias)[:, 0]
    table = table.astype(x.dtype)
    products = jnp.einsum("vd,rd->vr", table, x, preferred_element_type=jnp.float32)
    products = jax.lax.optimization_barrier(products).T
    return products if bias is None else products + bias


def _heads_first(key: Array, value: Array) -> dict[str, Array]:
    """[B, S, N, H] → [B, N, S, H], for the memory and the cache."""
    return {"key": key.swapaxes(1, 2), "value": value.swapaxes(1, 2)}


def _keys_values(stored: dict[str, Array]) -> tuple[Array, Array]:
    """The inverse of `_heads_first`, which the compiler merges with what attention does next."""
    return stored["key"].swapaxes(1, 2), stored["value"].swapaxes(1, 2)


def grow_cache(cache: dict, room: int) -> dict:
    """Enlarges a cache of `Transformer.start_decoding` to `room` tokens."""

    def grow(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, room - x.shape[2]), (0, 0))) if x.ndim else x

    return jax.tree.map(grow, cache)


def _layout(tokens: Array, segments: Array | None, positions_: Array | None) -> tuple[Array, Array]:
    if segments is None:
        segments = masks.padding_segments(tokens, pad_id=PAD_ID)
    if positions_ is None:
        positions_ = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return segments, positions_
