"""Where a search starts and ends, and which tokens it may generate.

Letters: B batch, K beams, R = B*K rows, V vocabulary, T max_length, P room for a prefix.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# (scores [R, V], tokens [R, T], step) -> scores, in beam search at most 0: see constraints.py
Adjust = Callable[[jax.Array, jax.Array, ArrayLike], jax.Array]


class Limits(NamedTuple):
    """Where every search starts and ends; all of it is static."""

    max_length: int  # T, the room for tokens in the result
    bos_id: int  # what a row starts with,
    eos_id: int  # ends with,
    pad_id: int  # and is padded with
    unk_id: int | None = None  # what is no text either, if the vocabulary has it
    adjust: Adjust | None = None

    def allowed(self, prefix: jax.Array | None, step: ArrayLike, vocab_size: int) -> jax.Array:
        """The tokens that may come at `step`; see `allowed_tokens`."""
        ids = {"bos_id": self.bos_id, "pad_id": self.pad_id, "unk_id": self.unk_id}
        return allowed_tokens(prefix, step, vocab_size, **ids)

    def adjusted(
        self, scores: jax.Array, tokens: jax.Array, prefix: jax.Array | None, step: ArrayLike
    ) -> jax.Array:
        """`scores` [B, V] or [B, K, V] after `adjust`, but as they are where `prefix` decides."""
        if self.adjust is None:
            return scores
        rows = scores.reshape(-1, scores.shape[-1])
        found = self.adjust(rows, tokens.reshape(len(rows), -1), step).reshape(scores.shape)
        if prefix is None:
            return found
        free = forced_tokens(prefix, step, pad_id=self.pad_id) == self.pad_id
        return jnp.where(free.reshape(-1, *[1] * (scores.ndim - 1)), found, scores)


def allowed_tokens(
    prefix: jax.Array | None,
    step: ArrayLike,
    vocab_size: int,
    *,
    bos_id: int,
    pad_id: int,
    unk_id: int | None = None,
) -> jax.Array:
    """Which tokens may come next, bool [B, V] ([1, V] without a prefix).

    Where `prefix` has a token at `step`, that one; elsewhere any but `bos_id`, `pad_id` and
    `unk_id`.

    >>> prefix = jnp.array([[4, 3], [4, 0]])
    >>> allowed_tokens(prefix, 1, 5, bos_id=2, pad_id=0).astype(int)
    Array([[0, 0, 0, 1, 0],
           [0, 1, 0, 1, 1]], dtype=int32)

    Args:
      prefix: int32 [B, P], padded with `pad_id`; or None.
      step: int32 scalar, the number of tokens generated so far.
      vocab_size: V.
      bos_id, pad_id, unk_id: what is no text; None = the vocabulary has none.
    """
    tokens = jnp.arange(vocab_size)[None]
    free = (tokens != bos_id) & (tokens != pad_id)
    if unk_id is not None:
        free &= tokens != unk_id
    if prefix is None:
        return free
    forced = forced_tokens(prefix, step, pad_id=pad_id)[:, None]
    return jnp.where(forced == pad_id, free, tokens == forced)


def forced_tokens(prefix: jax.Array, step: ArrayLike, *, pad_id: int) -> jax.Array:
    """The token of each row's prefix [B, P] at `step`, int32 [B]; beyond its room `pad_id`."""
    return jnp.take(prefix, step, axis=1, mode="fill", fill_value=pad_id)
