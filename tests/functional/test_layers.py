"""Layer norm, feed-forward, embeddings and logits against numpy; dropout by its statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.functional import layers

B, T, D, F, V = 2, 5, 7, 11, 13


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.fast
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_layer_norm(epsilon):
    x, scale, bias = normal(0, B, T, D) * 3 + 2, normal(1, D), normal(2, D)
    expected = np.zeros((B, T, D))
    for b, t in np.ndindex(B, T):
        row = x[b, t].astype(np.float64)
        mean = sum(row) / D
        variance = sum((row - mean) ** 2) / D
        expected[b, t] = (row - mean) / np.sqrt(variance + epsilon) * scale + bias
    np.testing.assert_allclose(
        layers.layer_norm(x, scale, bias, epsilon=epsilon), expected, atol=1e-5
    )


def test_layer_norm_gives_mean_0_and_variance_1_and_of_a_constant_row_0():
    x = normal(0, B, T, D) * 100 + 1000
    y = np.asarray(layers.layer_norm(x, np.ones(D), np.zeros(D), epsilon=1e-6))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(-1), 1, atol=1e-5)
    y = layers.layer_norm(jnp.full((1, D), 3.0), jnp.ones(D), jnp.zeros(D), epsilon=1e-6)
    np.testing.assert_allclose(y, 0, atol=1e-3)  # a rounding error over √ε


def test_statistics_and_biases_of_bfloat16_are_float32():
    width = 257  # a bfloat16 sum of so many would be off by much
    x = jnp.asarray(normal(0, 3, width) + 9, jnp.bfloat16)
    ones, zeros = jnp.ones(width), jnp.zeros(width)
    y = layers.layer_norm(x, ones, zeros, epsilon=1e-6)
    assert y.dtype == jnp.bfloat16
    exact = layers.layer_norm(x.astype(jnp.float32), ones, zeros, epsilon=1e-6)
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
    x, bias = jnp.ones((3, 1009, D), jnp.bfloat16), jnp.full(D, 1 + 2.0**-9)
    y = layers.add_bias(-x, bias)
    assert y.dtype == jnp.bfloat16
    assert (y == 2.0**-9).all()  # the bias alone, rounded to bfloat16, is 1
    assert layers.add_bias(x, None) is x
    gradient = jax.grad(lambda bias: layers.add_bias(x, bias).astype(jnp.float32).sum())(bias)
    np.testing.assert_array_equal(gradient, 3 * 1009)  # in bfloat16 the sum would stop at 256


@pytest.mark.fast
def test_feed_forward():
    x, w1, b1, w2, b2 = normal(0, B, T, D), normal(1, D, F), normal(2, F), normal(3, F, D), 1.5
    hidden = np.maximum(np.einsum("btd,df->btf", x, w1) + b1, 0)
    assert (hidden == 0).any()
    expected = np.einsum("btf,fd->btd", hidden, w2) + b2
    output = layers.feed_forward(x, w1, b1, w2, jnp.full(D, b2))
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_dropout_of_the_hidden_units_and_of_nothing_else():
    """Of the kept units of each row, written out: what is dropped lies between the two products."""
    x, w1, b1, w2, b2 = normal(0, B, T, D), normal(1, D, F), normal(2, F), normal(3, F, D), 1.5
    rngs, rate = keys(B), 0.25  # whose scale, 4 / 3, a 16-bit threshold hits exactly
    output = layers.feed_forward(
        x, w1, b1, w2, jnp.full(D, b2), dropout_rngs=rngs, dropout_rate=rate
    )
    kept = np.asarray(layers.dropout(jnp.ones((B, T, F)), rngs, rate)) != 0
    assert 0.5 < kept.mean() < 0.95 and (kept[0] != kept[1]).any()
    hidden = np.maximum(np.einsum("btd,df->btf", x, w1) + b1, 0) * kept / (1 - rate)
    np.testing.assert_allclose(output, np.einsum("btf,fd->btd", hidden, w2) + b2, atol=1e-5)


def test_feed_forward_is_position_wise():
    x = normal(0, B, T, D)
    weights = normal(1, D, F), normal(2, F), normal(3, F, D), normal(4, D)
    together, alone = layers.feed_forward(x, *weights), layers.feed_forward(x[:, 3:4], *weights)
    np.testing.assert_allclose(together[:, 3:4], alone, atol=1e-6)


def test_embed_scales_by_root_d_model():
    table, tokens = normal(0, V, D), np.array([[12, 0, 3, 3, 7], [1, 2, 0, 11, 5]])
    embedded = layers.embed(tokens, table)
    for b, t in np.ndindex(B, T):
        np.testing.assert_allclose(embedded[b, t], table[tokens[b, t]] * np.sqrt(D), rtol=1e-6)


def test_logits_are_tied_to_the_table_and_float32():
    x, table = normal(0, B, T, D), normal(1, V, D)
    expected = np.zeros((B, T, V))
    for b, t, v in np.ndindex(B, T, V):
        expected[b, t, v] = x[b, t].astype(np.float64) @ table[v]
    np.testing.assert_allclose(layers.logits(x, table), expected, atol=1e-5)
    low = [jnp.asarray(a, jnp.bfloat16) for a in (x, table)]
    from_low = layers.logits(*low)
    assert from_low.dtype == jnp.float32
    # Accumulated in float32, and not rounded to bfloat16 on the way out.
    exact = layers.logits(*(a.astype(jnp.float32) for a in low))
    np.testing.assert_allclose(from_low, exact, atol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.75])
def test_dropout_rate_and_expectation(rate):
    rows, size = 3, 101 * 103  # an odd size: half of the last draw is unused
    y = np.asarray(layers.dropout(jnp.ones((rows, 101, 103)), keys(rows), rate))
    sigma = np.sqrt(rate * (1 - rate) / size)
    for row in y:
        assert abs((row == 0).mean() - rate) < 5 * sigma
        assert abs(row.mean() - 1) < 5 * sigma / (1 - rate)


def test_dropout_masks_of_rows_and_entries_are_independent():
    size = 10_007
    kept = np.asarray(layers.dropout(jnp.ones((2, size)), keys(2), 0.5)) != 0
    centred = kept - 0.5
    limit = 5 * 0.25 / np.sqrt(size / 2)
    assert abs((centred[0] * centred[1]).mean()) < limit
    # Every lag: one draw serves two entries, which therefore must not agree.
    for lag in (1, 2, size // 2, (size + 1) // 2, (size + 1) // 2 + 1):
        assert abs((centred[0, lag:] * centred[0, :-lag]).mean()) < limit, lag


def test_a_row_has_a_key_of_its_own_and_its_mask_depends_on_it_alone():
    x, rngs = normal(0, 5, 7, 3), keys(5)
    y = np.asarray(layers.dropout(x, rngs, 0.5))
    assert len({(row == 0).tobytes() for row in y}) == 5
    order = np.array([3, 0, 4, 2, 1])
    np.testing.assert_array_equal(layers.dropout(x[order], rngs[order], 0.5), y[order])
    np.testing.assert_array_equal(layers.dropout(x[2:4], rngs[2:4], 0.5), y[2:4])
    # The mask does not depend on what is masked.
    np.testing.assert_array_equal(layers.dropout(x[:1] * 9, rngs[:1], 0.5) == 0, y[:1] == 0)
    rngs = keys(3)
    folded = [layers.fold_in_rows(rngs, number) for number in (0, 1)]
    data = np.concatenate([jax.random.key_data(r) for r in [rngs, *folded]])
    assert len({row.tobytes() for row in data}) == 9
    for number, row in np.ndindex(2, 3):
        assert folded[number][row] == jax.random.fold_in(rngs[row], number)


def test_dropout_rate_may_be_traced_and_without_it_dropout_is_the_identity():
    traces = []

    @jax.jit
    def f(x, rngs, rate):
        traces.append(rate)
        return layers.dropout(x, rngs, rate)

    x, rngs = normal(0, B, T, D), keys(B)
    for rate in (0.0, 0.1, 0.5):
        np.testing.assert_array_equal(f(x, rngs, jnp.float32(rate)), layers.dropout(x, rngs, rate))
    assert len(traces) == 1
    assert layers.dropout(x, None, 0.5) is x
    assert layers.dropout(x, rngs, None) is x
    assert layers.fold_in_rows(None, 3) is None


@pytest.mark.parametrize(("rate", "dropped"), [(0.1, 6554), (0.5, 32768), (1e-6, 0), (0.0, 0)])
def test_dropout_rate_is_rounded_and_the_scale_with_it(rate, dropped):
    """`dropped` in 65536 are dropped, and the scale is that of the rounded rate, exactly."""
    x = jnp.ones((1, 2003))
    y = np.asarray(layers.dropout(x, keys(1), rate))
    assert set(np.unique(y)) == {*([0] if dropped else []), np.float32(65536 / (65536 - dropped))}


def test_dropout_keeps_the_dtype_and_its_gradient_is_its_mask():
    x, rngs = jnp.asarray(normal(0, B, T, D), jnp.bfloat16), keys(B)
    assert layers.dropout(x, rngs, 0.5).dtype == jnp.bfloat16
    # 7 / (1 - 0.1) = 7.778, rounded once; by a scale in bfloat16 it would be 7.75.
    sevens = layers.dropout(jnp.full((B, T, D), 7, jnp.bfloat16), rngs, 0.1)
    assert set(np.unique(sevens.astype(np.float32))) == {0, 7.78125}
    x = jnp.asarray(normal(1, B, T, D))
    grad = jax.grad(lambda x: layers.dropout(x, rngs, 0.5).sum())(x)
    np.testing.assert_array_equal(grad, np.where(layers.dropout(x, rngs, 0.5) == 0, 0, 2))
