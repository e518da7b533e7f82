"""Sinusoids: the article's formula by loops, and the rotation between positions."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.functional.positions import sinusoidal_positions

D = 22
POSITIONS = [0, 1, 2, 3, 7, 31, 211, 1009]


def article(position, d_model):
    """PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(the same)."""
    row = []
    for i in range(d_model // 2):
        angle = position / 10000 ** (2 * i / d_model)
        row += [math.sin(angle), math.cos(angle)]
    return np.array(row)


def rotation(offset, d_model):
    """R(k) with PE(pos + k) = R(k) PE(pos): 2x2 blocks, of the frequencies and k alone."""
    matrix = np.zeros((d_model, d_model))
    for i in range(d_model // 2):
        angle = offset / 10000 ** (2 * i / d_model)
        block = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    return matrix


@pytest.mark.fast
def test_interleaved_is_the_formula():
    encoding = sinusoidal_positions(jnp.array(POSITIONS), D)
    assert encoding.dtype == jnp.float32
    expected = np.stack([article(p, D) for p in POSITIONS])
    # float32 angles: an error of 1e-7 of the angle, which for position 1009 is 1e-4.
    np.testing.assert_allclose(encoding[:6], expected[:6], atol=1e-5)
    np.testing.assert_allclose(encoding, expected, atol=2e-4)


def test_halves_are_sines_then_cosines():
    encoding = sinusoidal_positions(jnp.array(POSITIONS), D, layout="halves")
    expected = np.stack([article(p, D) for p in POSITIONS])
    np.testing.assert_allclose(encoding[:, : D // 2], expected[:, 0::2], atol=2e-4)
    np.testing.assert_allclose(encoding[:, D // 2 :], expected[:, 1::2], atol=2e-4)


@pytest.mark.parametrize("offset", [1, 5, 97])
def test_shift_is_one_rotation_for_all_positions(offset):
    positions = np.array([0, 1, 13, 101, 211, 307])
    before = np.asarray(sinusoidal_positions(jnp.asarray(positions), D))
    after = np.asarray(sinusoidal_positions(jnp.asarray(positions + offset), D))
    matrix = rotation(offset, D)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(D), atol=1e-12)
    for pos in range(len(positions)):
        np.testing.assert_allclose(after[pos], matrix @ before[pos], atol=2e-4)


def test_any_shape_of_positions():
    positions = np.random.default_rng(0).integers(0, 50, (3, 5))
    encoding = sinusoidal_positions(jnp.asarray(positions), D)
    assert encoding.shape == (3, 5, D)
    for b, t in np.ndindex(3, 5):
        np.testing.assert_allclose(encoding[b, t], article(positions[b, t], D), atol=2e-5)


def test_errors():
    with pytest.raises(ValueError, match="d_model=7"):
        sinusoidal_positions(jnp.arange(3), 7)
    with pytest.raises(ValueError, match="'mixed' is none of: interleaved, halves"):
        sinusoidal_positions(jnp.arange(3), 8, layout="mixed")
