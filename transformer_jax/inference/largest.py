"""The largest entries of long rows, such as the logits of a vocabulary."""

import jax
import jax.numpy as jnp
from jax import lax


def largest(x: jax.Array, count: int, *, block: int | None = None) -> tuple[jax.Array, jax.Array]:
    """What `lax.top_k` returns, ties included, sooner where the rows are long.

    An entry that is among the largest C of its row lies in one of the C blocks whose maxima are the
    largest, or C others would precede it. Of equal ones both stages take the earlier, as blocks are
    contiguous. So only C blocks are sorted, and finding their maxima reads the row once.

    >>> largest(jnp.array([[3, 9, 2, 9, 8, 1, 7, 0]]), 2, block=2)
    (Array([[9, 9]], dtype=int32), Array([[1, 3]], dtype=int32))

    Args:
      x: [..., V].
      count: C, at most V, static.
      block: the length of a block, static; None = near 32, a divisor of V if there is one.

    Returns:
      The C largest entries of each row, largest first, and their places, int32: both [..., C].
    """
    rows, length = x.shape[:-1], x.shape[-1]
    block = block or _block(length)
    if 2 * count * block > length:  # too little is left out
        return lax.top_k(x, count)
    spare = -length % block
    least = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    if spare:
        x = jnp.pad(x, [(0, 0)] * len(rows) + [(0, spare)], constant_values=least)
    x = lax.optimization_barrier(x)  # or it is computed twice, for the maxima and for the entries
    blocks = x.reshape(*rows, -1, block)
    chosen = jnp.sort(lax.top_k(blocks.max(axis=-1), count)[1], axis=-1)
    kept = jnp.take_along_axis(blocks, chosen[..., None], axis=-2).reshape(*rows, -1)
    largest, places = lax.top_k(kept, count)
    in_block = jnp.take_along_axis(chosen, places // block, axis=-1)
    return largest, in_block * block + places % block


def _block(length: int) -> int:
    """A divisor of `length` between 16 and 64, the nearest to 32; or 32, which needs padding."""
    divisors = [n for n in range(16, 65) if length % n == 0]
    return min(divisors, key=lambda n: abs(n - 32), default=32)
