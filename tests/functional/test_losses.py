"""The loss against the smoothed distribution written out, and its behaviour as a sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.functional.layers import logits
from transformer_jax.functional.losses import (
    label_smoothed_cross_entropy,
    sum_over_chunks,
    symmetric_divergence,
)

B, T, V, PAD = 3, 7, 11, 5
rng = np.random.default_rng(0)
LOGITS = rng.standard_normal((B, T, V)).astype(np.float32) * 2
LABELS = rng.integers(0, V, (B, T)).astype(np.int32)
LABELS[LABELS == PAD] = 0  # id 0 is a token here: padding is `pad_id` alone
LABELS[0, 4:] = LABELS[1, 2:] = PAD
COUNT = 4 + 2 + 7


def smoothed_labels(epsilon):
    """(1 - ε) · one-hot + ε / V."""
    labels = np.full((B, T, V), epsilon / V)
    for b, t in np.ndindex(B, T):
        labels[b, t, LABELS[b, t]] += 1 - epsilon
    return labels


def log_probs():
    logits = LOGITS.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def loss(logits, labels, epsilon):
    return label_smoothed_cross_entropy(logits, labels, label_smoothing=epsilon, pad_id=PAD)


@pytest.mark.fast
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.37])
def test_against_the_whole_distribution(epsilon):
    real = LABELS != PAD
    expected = -(smoothed_labels(epsilon) * log_probs()).sum(-1)[real].sum()
    total, count = loss(LOGITS, LABELS, epsilon)
    assert total.dtype == count.dtype == jnp.float32
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert count == COUNT


def test_gradient_is_softmax_minus_labels_and_padding_does_not_matter():
    grad = jax.grad(lambda x: loss(x, LABELS, 0.1)[0])(jnp.asarray(LOGITS))
    real = LABELS != PAD
    expected = np.where(real[..., None], np.exp(log_probs()) - smoothed_labels(0.1), 0)
    np.testing.assert_allclose(grad, expected, atol=1e-6)
    assert (grad[~real] == 0).all()
    changed = np.where((LABELS == PAD)[..., None], 1e9, LOGITS).astype(np.float32)
    assert loss(changed, LABELS, 0.1) == loss(LOGITS, LABELS, 0.1)


@pytest.mark.parametrize("axis", [0, 1])
def test_sums_and_counts_add_up_over_any_split(axis):
    whole = loss(LOGITS, LABELS, 0.1)
    cut = [1] if axis == 0 else [2, 5]
    logits, labels = np.split(LOGITS, cut, axis), np.split(LABELS, cut, axis)
    parts = [loss(x, y, 0.1) for x, y in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(sum(p[0] for p in parts), whole[0], rtol=1e-6)
    assert sum(p[1] for p in parts) == whole[1]


def test_bfloat16_logits_are_summed_in_float32_and_smoothing_may_be_traced():
    rounded = jnp.asarray(LOGITS, jnp.bfloat16)
    total, _ = loss(rounded, LABELS, 0.1)
    assert total == loss(rounded.astype(jnp.float32), LABELS, 0.1)[0]
    assert np.isfinite(loss(LOGITS * 1e4, LABELS, 0.1)[0])
    traced = jax.jit(loss)(LOGITS, LABELS, jnp.float32(0.1))
    np.testing.assert_allclose(traced[0], loss(LOGITS, LABELS, 0.1)[0], rtol=1e-6)


def test_the_divergence_is_half_of_both_kullback_leiblers():
    """Each by its definition, Σ p log(p / q), piece by piece."""
    others = rng.standard_normal((B, T, V)).astype(np.float32) * 3
    p, q = (np.exp(x.astype(np.float64)) for x in (LOGITS, others))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    expected = 0.0
    for b, t in zip(*np.nonzero(LABELS != PAD), strict=True):
        forth = sum(p[b, t, v] * np.log(p[b, t, v] / q[b, t, v]) for v in range(V))
        back = sum(q[b, t, v] * np.log(q[b, t, v] / p[b, t, v]) for v in range(V))
        assert forth > 0 and back > 0 and abs(forth - back) > 1e-4
        expected += (forth + back) / 2

    def divergence(x, y):
        return symmetric_divergence(x, y, LABELS, pad_id=PAD)

    found = divergence(LOGITS, others)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(divergence(others, LOGITS + 7), expected, rtol=1e-5)
    assert divergence(LOGITS, LOGITS) == 0
    apart = jnp.stack([LOGITS, -LOGITS]) * 1e4  # each is sure of another piece
    assert np.isfinite(jax.grad(lambda x: divergence(*x))(apart)).all()


def of_softmax(weights, states, labels):
    """Reads what a training step does: weights, some of them None or numbers, and states."""
    predicted = logits(states["x"], weights["table"], weights["bias"])
    smoothing = weights["label_smoothing"]
    return label_smoothed_cross_entropy(predicted, labels, label_smoothing=smoothing, pad_id=PAD)[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_sum_over_chunks_and_its_gradient_are_those_of_all_positions(dtype):
    length, width = 6, 5
    labels = LABELS[:, :length]
    x = jnp.asarray(rng.standard_normal((B, length, width)), dtype)
    table = rng.standard_normal((V, width)).astype(np.float32)
    bias = rng.standard_normal(V).astype(np.float32)
    weights = {"table": table, "bias": bias, "label_smoothing": 0.1, "unused": None}

    def whole(weights, states):
        return 3 * of_softmax(weights, states, labels)

    def in_chunks(weights, states):
        return 3 * sum_over_chunks(of_softmax, 3, weights, states, labels)

    expected, gradients = jax.value_and_grad(whole, (0, 1))(weights, {"x": x})
    np.testing.assert_allclose(in_chunks(weights, {"x": x}), expected, rtol=1e-6)
    found, of_chunks = jax.jit(jax.value_and_grad(in_chunks, (0, 1)))(weights, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(of_chunks), jax.tree.leaves(gradients), strict=True):
        assert a.dtype == b.dtype
        tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
        np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


def test_no_array_of_a_training_step_has_the_logits_of_all_positions():
    """Neither the loss nor its gradient, whose largest arrays are those of one chunk."""
    labels = np.ones((B, 8), np.int32)
    weights = {"table": jnp.ones((257, 2)), "bias": None, "label_smoothing": 0.1}
    loss = lambda *trees: sum_over_chunks(of_softmax, 4, *trees, labels)  # noqa: E731
    arguments = weights, {"x": jnp.ones((B, 8, 2))}
    text = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arguments).as_text()
    assert f"{B}x2x257x" in text
    assert f"{B}x8x257x" not in text
