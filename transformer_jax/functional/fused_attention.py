"""Attention by fused kernels, which never store the [B, N, T, S] weights.

Each computes what `attention.scaled_dot_product_attention` does, to rounding, without dropout on
the weights (the kernels have none), for packed rows: their masks are given by segments.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from transformer_jax.functional.masks import SegmentMask


def cudnn_attention(
    query: Array, key: Array, value: Array, mask: SegmentMask, *, implementation: str = "cudnn"
) -> Array:
    """By cuDNN's flash attention, on NVIDIA GPUs; bfloat16 or float16.

    The mask is dense all the same, bool [B, 1, T, S]: cuDNN knows no segments in this layout.

    Args:
      query: [B, T, N, H], H a multiple of 8 and at most 128, T and S even.
      key: [B, S, N, H].
      value: [B, S, N, H]; its heads are as wide as the key's.
      mask: of the same B, T and S.
      implementation: of `jax.nn.dot_product_attention`; "xla" runs anywhere, to be compared with.

    Returns:
      [B, T, N, H], in the dtype of `value`; 0 where a query may attend to nothing.
    """
    dense = mask.dense()
    heads = jax.nn.dot_product_attention(
        query, key, value, mask=dense, implementation=implementation
    )
    return _zero_if_blind(heads, dense)


def splash_attention(
    query: Array, key: Array, value: Array, mask: SegmentMask, *, interpret: bool = False
) -> Array:
    """By the Pallas kernel "splash attention", on TPUs.

    Args:
      query: [B, T, N, H]; T and S are multiples of 128.
      key: [B, S, N, H].
      value: [B, S, N, Hv].
      mask: of the same B, T and S.
      interpret: run the kernel step by step, on any device and slowly.

    Returns:
      [B, T, N, Hv], in the dtype of `value`; 0 where a query may attend to nothing.
    """
    # Imported here: it takes a fifth of jax's own time, and few need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel,
        splash_attention_mask,
    )

    lengths, num_heads = (query.shape[1], key.shape[1]), query.shape[2]
    q, kv = map(_block_size, lengths)
    blocks = {"block_q": q, "block_q_dkv": q, "block_q_dq": q}
    blocks |= {"block_kv": kv, "block_kv_dkv": kv, "block_kv_dq": kv}
    kind = splash_attention_mask.CausalMask if mask.causal else splash_attention_mask.FullMask
    kernel = splash_attention_kernel.make_splash_mha(
        splash_attention_mask.MultiHeadMask([kind(lengths)] * num_heads),
        block_sizes=splash_attention_kernel.BlockSizes(**blocks),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    segments = splash_attention_kernel.SegmentIds(mask.query_segments, mask.key_segments)
    query = (query * query.shape[-1] ** -0.5).astype(query.dtype)  # the kernel does not scale
    heads_first = [x.swapaxes(1, 2) for x in (query, key, value)]
    heads = jax.vmap(kernel)(*heads_first, segments).swapaxes(1, 2)
    return _zero_if_blind(heads.astype(value.dtype), mask.dense())


FUSED: dict[str, Callable[[Array, Array, Array, SegmentMask], Array]] = {
    "cudnn": cudnn_attention,
    "splash": splash_attention,
}


def _zero_if_blind(heads: Array, dense: Array) -> Array:
    # To both kernels padding is one more segment, or a row of equal scores: some mean of values,
    # whose gradient this cuts off too. The reduction fuses, so that nothing [T, S] is stored.
    sees = dense.any(-1)[:, 0, :, None, None]
    return jnp.where(sees, heads, 0)


def _block_size(length: int) -> int:
    """The largest of 512, 384, 256 and 128 that divides `length`."""
    sizes = [size for size in (512, 384, 256, 128) if length % size == 0]
    if not sizes:
        raise ValueError(f"splash attention needs lengths that 128 divides, not {length}")
    return sizes[0]
