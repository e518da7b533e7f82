"""The two stages of `largest` against a stable sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.inference.largest import largest


@pytest.mark.fast
@pytest.mark.parametrize("length", [2, 13, 97, 211, 1009, 1500])
@pytest.mark.parametrize("block", [1, 3, 7, 32, None])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_largest_are_those_of_a_stable_sort_with_ties_by_place(length, block, count):
    rng = np.random.default_rng(length)
    x = rng.integers(0, 5, (3, 11, length)).astype(np.float32)  # many are equal
    x[0] = rng.standard_normal(x[0].shape)
    x[1, :, 1:] = np.where(rng.random((11, length - 1)) < 0.97, -np.inf, x[1, :, 1:])
    x[2, 0], x[2, 1] = -np.inf, 0.0
    count = min(count, length)
    values, places = jax.jit(largest, static_argnames=("count", "block"))(x, count, block=block)
    order = np.argsort(-x, axis=-1, kind="stable")[..., :count]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, axis=-1))
    for one, other in zip((values, places), jax.lax.top_k(x, count), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_long_rows_are_not_sorted_whole():
    """As the compiler sees it: no top k reads a whole row, and short rows take one stage."""

    def widths(length):
        program = jax.make_jaxpr(lambda x: largest(x, 8))(jnp.zeros((3, length)))
        return [e.invars[0].aval.shape[-1] for e in program.eqns if e.primitive.name == "top_k"]

    assert widths(32_003) == [1001, 256]
    assert widths(503) == [503]
