"""Attention masks: bool, True = may attend, broadcastable to [B, N, T, S]."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array


def causal_mask(length: int) -> Array:
    """Position t may attend to positions ≤ t (Vaswani et al. 2017, section 3.2.3).

    >>> causal_mask(3)[0, 0].astype(int)
    Array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]], dtype=int32)

    Returns:
      bool [1, 1, T, T].
    """
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def segment_mask(query_segments: Array, key_segments: Array) -> Array:
    """Position t may attend to position s when both belong to the same pair of a packed row.

    Segments are numbered from 1 within a row; 0 is padding, which attends to nothing and is
    attended by nothing. A row that holds one pair padded to the row's length is the case of one
    segment, so this is the padding mask too.

    >>> segment_mask(jnp.array([[1, 1, 2, 0]]), jnp.array([[1, 2, 2]]))[0, 0].astype(int)
    Array([[1, 0, 0],
           [1, 0, 0],
           [0, 1, 1],
           [0, 0, 0]], dtype=int32)

    Args:
      query_segments: int32 [B, T].
      key_segments: int32 [B, S].

    Returns:
      bool [B, 1, T, S].
    """
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (query_segments != 0)[:, :, None])[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SegmentMask:
    """`segment_mask`, by its segments: what a fused attention reads instead of a [T, S] array.

    Attributes:
      query_segments: int32 [B, T].
      key_segments: int32 [B, S].
      causal: whether, besides, position t may attend to positions ≤ t only.
    """

    query_segments: Array
    key_segments: Array
    causal: bool = dataclasses.field(default=False, metadata={"static": True})

    def dense(self) -> Array:
        """The same mask as an array: bool [B, 1, T, S]."""
        mask = segment_mask(self.query_segments, self.key_segments)
        return mask & causal_mask(mask.shape[-1]) if self.causal else mask


def padding_segments(tokens: Array, *, pad_id: int) -> Array:
    """The segments of rows that hold one sentence each: 1 where `tokens` is not padding, else 0.

    Args:
      tokens: int32 [B, T].

    Returns:
      int32 [B, T].
    """
    return (tokens != pad_id).astype(jnp.int32)
