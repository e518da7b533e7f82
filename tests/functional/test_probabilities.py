"""Probabilities against numpy in float64."""

import jax.numpy as jnp
import numpy as np

from transformer_jax.functional.probabilities import ensemble, token_log_probs

RNG = np.random.default_rng(0)


def softmax(x):
    exp = np.exp(x - x.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_token_log_probs():
    logits = RNG.standard_normal((3, 5, 11)) * 3
    tokens = RNG.integers(1, 11, (3, 5))
    tokens[1, 3:] = 0
    found = token_log_probs(jnp.asarray(logits, jnp.float32), tokens, pad_id=0)
    expected = np.log(np.take_along_axis(softmax(logits), tokens[..., None], -1))[..., 0]
    np.testing.assert_allclose(found, np.where(tokens == 0, 0, expected), atol=1e-5)
    assert np.all(found[1, 3:] == 0) and found.dtype == jnp.float32
    logits = jnp.zeros((1, 1, 997), jnp.bfloat16)
    found = token_log_probs(logits, jnp.array([[5]]), pad_id=0)
    np.testing.assert_allclose(found, [[-np.log(997)]], rtol=1e-6)


def test_an_ensemble_is_the_mean_of_probabilities():
    logits = RNG.standard_normal((3, 2, 7, 13)) * 5
    found = ensemble([jnp.asarray(x, jnp.float32) for x in logits])
    np.testing.assert_allclose(np.exp(found), softmax(logits).mean(0), atol=1e-6)
    one = jnp.asarray(logits[0], jnp.bfloat16)
    assert ensemble([one]) is one
    a, b = jnp.array([-jnp.inf, 0.0, 0.0]), jnp.array([0.0, -jnp.inf, -jnp.inf])
    np.testing.assert_allclose(np.exp(ensemble([a, b])), [0.5, 0.25, 0.25], rtol=1e-6)
