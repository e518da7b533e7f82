"""Attention against loops in numpy, and the properties that the article states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.functional.attention import (
    attention_weights,
    merge_heads,
    scaled_dot_product_attention,
    split_heads,
)

B, N, T, S, H, HV, D = 2, 3, 5, 7, 11, 13, 17
BLIND = 1, 3  # the (row, query) that may attend to nothing


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def qkv():
    return normal(0, B, T, N, H), normal(1, B, S, N, H), normal(2, B, S, N, HV)


@pytest.fixture(scope="module")
def mask():
    """bool [B, N, T, S]: a random half, one blind query, and all others with two keys at least."""
    mask = np.random.default_rng(3).random((B, N, T, S)) < 0.5
    mask[..., [2, 5]] = True
    mask[BLIND[0], :, BLIND[1]] = False
    return mask


def weights_by_loops(query, key, mask):
    """softmax(QKᵀ/√d_k) in float64, over the keys that the mask allows."""
    weights = np.zeros((B, N, T, S))
    for b, n, t in np.ndindex(B, N, T):
        allowed = [s for s in range(S) if mask[b, n, t, s]]
        scores = [float(query[b, t, n] @ key[b, s, n].astype(np.float64)) for s in allowed]
        exps = np.exp(np.array(scores) / np.sqrt(H))
        weights[b, n, t, allowed] = exps / exps.sum() if allowed else 0
    return weights


SHAPES = [(B, 1, 1, S), (1, 1, T, S), (B, 1, T, S), (B, N, T, S), None]


@pytest.mark.fast
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights_against_loops_whatever_the_masks_shape(qkv, shape):
    mask = np.random.default_rng(4).random(shape) < 0.6 if shape else None
    weights = attention_weights(*qkv[:2], mask)
    assert weights.dtype == jnp.float32
    full = np.broadcast_to(True if mask is None else mask, (B, N, T, S))
    np.testing.assert_allclose(weights, weights_by_loops(*qkv[:2], full), atol=1e-6)


@pytest.mark.parametrize("scale", [1, 1000])
def test_rows_sum_to_one_and_masked_entries_are_exactly_zero(qkv, mask, scale):
    query, key, _ = qkv
    weights = np.asarray(attention_weights(query * scale, key, mask))
    assert (weights[~mask] == 0).all()
    sums = weights.sum(-1)
    assert (sums[BLIND[0], :, BLIND[1]] == 0).all()
    sums[BLIND[0], :, BLIND[1]] = 1
    np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_attention_against_loops(qkv, mask):
    query, key, value = qkv
    weights = weights_by_loops(query, key, mask)
    expected = np.zeros((B, T, N, HV))
    for b, t, n, s in np.ndindex(B, T, N, S):
        expected[b, t, n] += weights[b, n, t, s] * value[b, s, n]
    output = scaled_dot_product_attention(query, key, value, mask)
    assert output.shape == (B, T, N, HV)
    np.testing.assert_allclose(output, expected, atol=1e-6)


def test_blind_queries_and_unseen_keys_get_no_gradient(qkv, mask):
    weighting = normal(5, B, T, N, HV)

    def loss(query, key, value):
        output = scaled_dot_product_attention(query, key, value, mask)
        return jnp.sum(output * weighting), output

    with jax.debug_nans(True):  # nor is any value on the way nan
        (_, output), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*qkv)
    assert (output[BLIND] == 0).all()
    assert all(np.isfinite(g).all() for g in grads)
    assert (grads[0][BLIND] == 0).all()
    assert (np.delete(grads[0][BLIND[0]], BLIND[1], axis=0) != 0).all()
    unseen = 4
    mask = (np.arange(S) != unseen)[None, None, None]

    def loss(key, value):
        return jnp.sum(scaled_dot_product_attention(qkv[0], key, value, mask) ** 2)

    for grad in jax.grad(loss, (0, 1))(*qkv[1:]):
        assert (grad[:, unseen] == 0).all()
        assert (np.delete(grad, unseen, axis=1) != 0).all()


def test_bfloat16_is_softmaxed_in_float32(qkv, mask):
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in qkv)
    weights = attention_weights(query, key, mask)
    assert weights.dtype == jnp.float32
    rounded = [np.asarray(x.astype(jnp.float32)) for x in (query, key)]
    np.testing.assert_allclose(weights, weights_by_loops(*rounded, mask), atol=1e-6)
    output = scaled_dot_product_attention(query, key, value, mask)
    assert output.dtype == jnp.bfloat16


def test_dropout_is_on_the_weights(qkv, mask):
    query, key, _ = qkv
    weights = np.asarray(attention_weights(query, key, mask))
    identity = np.broadcast_to(np.eye(S, dtype=np.float32)[None, :, None], (B, S, N, S))
    rngs = jax.random.split(jax.random.key(6), B)
    rate = 0.25  # a multiple of 1/65536, so that the scale is 4/3
    output = scaled_dot_product_attention(
        query, key, identity, mask, dropout_rngs=rngs, dropout_rate=rate
    )
    dropped = np.asarray(output).transpose(0, 2, 1, 3)  # with V = 1 the output is the weights
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], (weights / 0.75)[kept], rtol=1e-6)
    assert 0.1 < 1 - kept[mask].mean() < 0.4


@pytest.mark.parametrize("biased", [False, True])
def test_heads_are_matmuls_concatenated_through_one_linear_layer(biased):
    x, kernel = normal(7, B, T, D), normal(8, D, N, H)
    output_kernel = normal(9, N, H, D)
    bias, output_bias = (normal(10, N, H), normal(11, D)) if biased else (None, None)
    heads = split_heads(x, kernel, bias)
    by_hand = [x @ kernel[:, n] + (bias[n] if biased else 0) for n in range(N)]
    np.testing.assert_allclose(heads, np.stack(by_hand, axis=2), atol=1e-4)
    linear = output_kernel.reshape(N * H, D)  # W_O: rows 0 … H-1 read head 0, and so on
    expected = np.concatenate(by_hand, axis=-1) @ linear + (output_bias if biased else 0)
    np.testing.assert_allclose(merge_heads(heads, output_kernel, output_bias), expected, atol=1e-3)
