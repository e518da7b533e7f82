"""Sinusoids: the article's formula by loops, and the rotation between positions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.functional.positions import position_rotation, sinusoidal_positions

D = 22
POSITIONS = [0, 1, 2, 3, 7, 31, 211, 1009]


def article(position, d_model):
    """PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(the same)."""
    row = []
    for i in range(d_model // 2):
        angle = position / 10000 ** (2 * i / d_model)
        row += [math.sin(angle), math.cos(angle)]
    return np.array(row)


def table(positions, d_model, layout):
    """The article's formula, in float64, with its entries in the order of a layout."""
    rows = np.stack([article(position, d_model) for position in positions])
    return np.concatenate([rows[:, 0::2], rows[:, 1::2]], 1) if layout == "halves" else rows


LAYOUTS = pytest.mark.parametrize("layout", ["interleaved", "halves"])


@LAYOUTS
@pytest.mark.fast
def test_sinusoids_are_the_formula(layout):
    encoding = sinusoidal_positions(jnp.array(POSITIONS), D, layout=layout)
    assert encoding.dtype == jnp.float32
    expected = table(POSITIONS, D, layout)
    # float32 angles: an error of 1e-7 of the angle, which for position 1009 is 1e-4.
    np.testing.assert_allclose(encoding[:6], expected[:6], atol=1e-5)
    np.testing.assert_allclose(encoding, expected, atol=2e-4)


# --- Section 3.5: PE(pos + k) is a linear function of PE(pos) that does not depend on pos. ---


def fitted_rotation(offset, d_model, layout):
    """The one linear map, in float64: least squares over many positions of the article's formula.

    Nothing here knows that it is a rotation. That all positions agree on it is part of the claim.
    """
    positions = np.arange(0, 40_009, 83)
    before, after = (table(positions + k, d_model, layout) for k in (0, offset))
    solution, _, rank, _ = np.linalg.lstsq(before, after, rcond=None)
    assert rank == d_model
    np.testing.assert_allclose(before @ solution, after, atol=1e-9)
    return solution.T


@LAYOUTS
@pytest.mark.parametrize("offset", [1, 5, 97, -3])
def test_position_rotation_is_the_linear_function_of_the_article(offset, layout):
    matrix = position_rotation(offset, D, layout=layout)
    assert (matrix.dtype, matrix.shape) == (jnp.float32, (D, D))
    np.testing.assert_allclose(matrix, fitted_rotation(offset, D, layout), atol=1e-5)


@LAYOUTS
def test_one_rotation_serves_every_position(layout):
    positions = np.array([0, 1, 13, 101, 211, 307])
    for offset in (1, 5, 97):
        matrix = position_rotation(offset, D, layout=layout)
        before = sinusoidal_positions(jnp.asarray(positions), D, layout=layout)
        after = sinusoidal_positions(jnp.asarray(positions + offset), D, layout=layout)
        np.testing.assert_allclose(after, before @ matrix.T, atol=1e-4)


@LAYOUTS
def test_rotations_are_orthogonal_and_add_up(layout):
    def rotation(offset):
        return np.asarray(position_rotation(offset, D, layout=layout), np.float64)

    np.testing.assert_array_equal(rotation(0), np.eye(D))
    for offset in (1, 7, 31):
        np.testing.assert_allclose(rotation(offset) @ rotation(offset).T, np.eye(D), atol=1e-6)
        np.testing.assert_allclose(rotation(offset).T, rotation(-offset), atol=1e-6)
        np.testing.assert_allclose(
            rotation(13) @ rotation(offset), rotation(13 + offset), atol=1e-5
        )
        assert np.linalg.det(rotation(offset)) > 0  # a rotation, no reflection


def test_any_shape_of_positions_and_a_traced_rotation():
    positions = np.random.default_rng(0).integers(0, 50, (3, 5))
    encoding = sinusoidal_positions(jnp.asarray(positions), D)
    assert encoding.shape == (3, 5, D)
    for b, t in np.ndindex(3, 5):
        np.testing.assert_allclose(encoding[b, t], article(positions[b, t], D), atol=2e-5)
    matrices = jax.jit(jax.vmap(lambda k: position_rotation(k, D)))(jnp.array([2, 11]))
    for matrix, offset in zip(matrices, (2, 11), strict=True):
        np.testing.assert_allclose(matrix, position_rotation(offset, D), atol=1e-6)


@pytest.mark.parametrize("function", [sinusoidal_positions, position_rotation])
def test_errors(function):
    with pytest.raises(ValueError, match="d_model=7"):
        function(jnp.int32(3), 7)
    with pytest.raises(ValueError, match="'mixed' is none of: interleaved, halves"):
        function(jnp.int32(3), 8, layout="mixed")
