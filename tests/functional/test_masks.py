"""Masks: the definition by loops."""

import jax.numpy as jnp
import numpy as np

from transformer_jax.functional.masks import causal_mask, padding_segments, segment_mask


def test_causal_and_segment_masks():
    mask = causal_mask(7)
    assert mask.shape == (1, 1, 7, 7)
    assert mask.dtype == jnp.bool_
    for t, s in np.ndindex(7, 7):
        assert mask[0, 0, t, s] == (s <= t)
    rng = np.random.default_rng(0)
    query, key = rng.integers(0, 4, (3, 5)), rng.integers(0, 4, (3, 7))
    mask = segment_mask(jnp.asarray(query), jnp.asarray(key))
    assert mask.shape == (3, 1, 5, 7)
    assert mask.dtype == jnp.bool_
    for b, t, s in np.ndindex(3, 5, 7):
        same = query[b, t] == key[b, s] and query[b, t] != 0
        assert mask[b, 0, t, s] == same
    assert (query == 0).any() and (key == 0).any()


def test_padding_is_whatever_equals_pad_id_and_masks_combine():
    tokens = jnp.array([[5, 0, 7, 7], [0, 3, 7, 7]])
    np.testing.assert_array_equal(padding_segments(tokens, pad_id=7), [[1, 1, 0, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(padding_segments(tokens, pad_id=0), [[1, 0, 1, 1], [0, 1, 1, 1]])
    # A negative id is a token like any other: the test is "is not pad", not "is above pad".
    np.testing.assert_array_equal(padding_segments(jnp.array([[-1, 0, 2]]), pad_id=0), [[1, 0, 1]])
    segments = jnp.array([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1]])
    mask = segment_mask(segments, segments) & causal_mask(5)
    assert mask.shape == (2, 1, 5, 5)
    np.testing.assert_array_equal(
        mask[0, 0].astype(int),
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(mask[1], causal_mask(5)[0])
