"""The fused kernels against the plain function, on packed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from transformer_jax.functional.attention import scaled_dot_product_attention
from transformer_jax.functional.fused_attention import cudnn_attention, splash_attention
from transformer_jax.functional.masks import SegmentMask

B, N, H, HV = 2, 3, 5, 7


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def segments(seed, length, number, padding):
    """int32 [B, length]: `number` segments of random lengths, then padding."""
    rng = np.random.default_rng(seed)
    packed = np.zeros((B, length), np.int32)
    for row in packed:
        bounds = rng.choice(np.arange(1, length - padding), number - 1, replace=False)
        row[: length - padding] = 1 + np.isin(np.arange(length - padding), bounds).cumsum()
    return jnp.asarray(packed)


def packed_mask(target_length, source_length, causal):
    """Four segments; of a source that is another row, three: the fourth target sees nothing."""
    target = segments(0, target_length, 4, padding=9)
    source = target if causal else segments(1, source_length, 3, padding=0)
    return SegmentMask(target, source, causal)


def inputs(target_length, source_length, causal, *, widths=(H, H, HV), dtype=jnp.float32):
    """A mask, query, key and value."""
    lengths = target_length, source_length, source_length
    qkv = [normal(n, B, lengths[n], N, widths[n], dtype=dtype) for n in range(3)]
    return packed_mask(target_length, source_length, causal), *qkv


def output_and_gradients(function, query, key, value):
    """Of a random sum of the output, so that padding counts as much as the rest."""
    weighting = normal(3, *query.shape[:3], value.shape[-1])

    @jax.jit
    def loss(*qkv):
        output = function(*qkv)
        return jnp.sum(output.astype(jnp.float32) * weighting), output

    (_, output), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(query, key, value)
    return output, *gradients


def plain(mask):
    return lambda *qkv: scaled_dot_product_attention(*qkv, mask.dense())


def assert_equals_plain(fused, mask, *qkv, atol):
    found = output_and_gradients(lambda *qkv: fused(*qkv, mask), *qkv)
    expected = output_and_gradients(plain(mask), *qkv)
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x.astype(np.float32), y.astype(np.float32), atol=atol)
    blind = ~np.asarray(mask.dense()).any(-1)[:, 0]
    assert blind.any(-1).all()
    assert not blind.all(-1).any()
    for x in found[:2]:  # the output and the gradient of the query
        assert (np.asarray(x)[blind] == 0).all()


@pytest.mark.parametrize("causal", [False, True])
def test_segment_mask_by_loops(causal):
    mask = packed_mask(19, 23, causal)
    dense, lengths = np.asarray(mask.dense()), (19, 19 if causal else 23)
    assert dense.shape == (B, 1, *lengths)
    for b, t, s in np.ndindex(B, *lengths):
        q, k = mask.query_segments[b, t], mask.key_segments[b, s]
        assert dense[b, 0, t, s] == (q == k != 0 and (s <= t or not causal))


@pytest.mark.parametrize(
    ("target_length", "source_length", "causal"),
    [(128, 128, True), (384, 128, False), (128, 640, False)],
    ids=["decoder", "longer target", "five blocks"],
)
def test_splash_equals_the_plain_function(target_length, source_length, causal):
    mask, *qkv = inputs(target_length, source_length, causal)

    def interpreted(*args):
        return splash_attention(*args, interpret=True)

    assert_equals_plain(interpreted, mask, *qkv, atol=1e-5)


def test_splash_is_made_for_tpus():
    """Both its programs; the lowering, which needs no TPU, refuses what the kernels cannot do."""
    shapes = [(B, 256, N, 64), (B, 384, N, 64), (B, 384, N, 64), (B, 256), (B, 384)]
    dtypes = [jnp.bfloat16] * 3 + [jnp.int32] * 2
    arguments = [jax.ShapeDtypeStruct(*x) for x in zip(shapes, dtypes, strict=True)]

    @jax.jit
    def gradients(query, key, value, *segments):
        def loss(*qkv):
            return splash_attention(*qkv, SegmentMask(*segments)).astype(jnp.float32).sum()

        return jax.grad(loss, (0, 1, 2))(query, key, value)

    exported = export.export(gradients, platforms=["tpu"])(*arguments)
    kernels = exported.mlir_module().count("@tpu_custom_call")
    assert kernels == 3  # forward, the gradient of the query, that of key and value


def test_splash_keeps_no_weights_and_refuses_a_length_that_no_block_divides():
    length = 256
    mask, shapes = packed_mask(length, length, causal=True), [(B, length, N, H)] * 3

    def largest_kept(function):
        qkv = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        kept = jax.eval_shape(lambda *qkv: jax.vjp(function, *qkv)[1], *qkv)
        return max(x.size for x in jax.tree.leaves(kept))

    weights = B * N * length * length
    assert largest_kept(plain(mask)) >= weights
    assert largest_kept(lambda *qkv: splash_attention(*qkv, mask, interpret=True)) < weights / 8
    mask, *qkv = inputs(192, 192, True)
    with pytest.raises(ValueError, match="128 divides, not 192"):
        splash_attention(*qkv, mask, interpret=True)


@pytest.mark.parametrize("causal", [False, True])
def test_the_call_of_cudnn_by_its_xla_implementation(causal):
    """Mask, scale, layout, and what blind queries give."""
    mask, *qkv = inputs(26, 26 if causal else 34, causal, widths=(8, 8, 8))

    def by_xla(*args):
        return cudnn_attention(*args, implementation="xla")

    assert_equals_plain(by_xla, mask, *qkv, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's attention needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [False, True])
def test_cudnn_equals_the_plain_function(causal):
    options = {"widths": (64, 64, 64), "dtype": jnp.bfloat16}
    mask, *qkv = inputs(64, 64 if causal else 96, causal, **options)
    assert_equals_plain(cudnn_attention, mask, *qkv, atol=0.06)
