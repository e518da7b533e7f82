"""What may follow what a search has generated: pure functions of fixed shapes, for Limits.adjust.

They rewrite `scores` float32 [R, V] by `tokens` int32 [R, T], of which the first `step` are
generated; a token that is forbidden gets -inf. They are the logits processors of Hugging Face's
`generate`: scores are log-probs in beam search, and logits in greedy search and sampling.
Letters: R rows, V vocabulary, T room for tokens, M sequences.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike


def no_repeated_ngrams(
    scores: jax.Array, tokens: jax.Array, step: ArrayLike, *, size: int
) -> jax.Array:
    """Forbids what would generate the same `size` tokens in a row twice (Paulus et al. 2018).

    >>> tokens = jnp.array([[3, 4, 3, 0], [3, 4, 4, 0]])  # three of them are generated
    >>> no_repeated_ngrams(jnp.zeros((2, 5)), tokens, 3, size=2)
    Array([[  0.,   0.,   0.,   0., -inf],
           [  0.,   0.,   0.,   0., -inf]], dtype=float32)
    """
    starts = tokens.shape[1] - size + 1
    if starts < 1:  # there is room for less than one
        return scores
    last = lax.dynamic_slice_in_dim(tokens, step - size + 1, size - 1, axis=1)
    repeats = jnp.arange(starts) + size <= step
    for place in range(size - 1):
        repeats &= tokens[:, place : place + starts] == last[:, place, None]
    repeats = jnp.broadcast_to(repeats, (len(tokens), starts))
    return jnp.where(_has(tokens[:, size - 1 :], repeats, scores), -jnp.inf, scores)


def penalised_repetitions(
    scores: jax.Array, tokens: jax.Array, step: ArrayLike, *, penalty: float
) -> jax.Array:
    """Makes what was generated less probable: above 1, times or by `penalty` (Keskar et al. 2019).

    >>> penalised_repetitions(jnp.array([[-2.0, 3, 5]]), jnp.array([[0, 1, 2]]), 2, penalty=2.0)
    Array([[-4. ,  1.5,  5. ]], dtype=float32)
    """
    generated = jnp.broadcast_to(jnp.arange(tokens.shape[1]) < step, tokens.shape)
    penalised = jnp.where(scores < 0, scores * penalty, scores / penalty)
    return jnp.where(_has(tokens, generated, scores), penalised, scores)


def without_sequences(
    scores: jax.Array,
    tokens: jax.Array,
    step: ArrayLike,
    *,
    sequences: Sequence[Sequence[int]],
    bos_id: int,
) -> jax.Array:
    """Forbids the last token of each sequence after its others; `bos_id` is before the first token.

    >>> tokens = jnp.array([[4, 3], [3, 4]])  # one of them is generated
    >>> without_sequences(jnp.zeros((2, 5)), tokens, 1, sequences=[(1,), (3, 2)], bos_id=9)
    Array([[  0., -inf,   0.,   0.,   0.],
           [  0., -inf, -inf,   0.,   0.]], dtype=float32)
    """
    history = jnp.concatenate([jnp.full((len(tokens), 1), bos_id), tokens], axis=1)
    for size in sorted({len(sequence) for sequence in sequences}):
        if size > history.shape[1]:
            break
        group = np.array([sequence for sequence in sequences if len(sequence) == size])
        last = lax.dynamic_slice_in_dim(history, step + 2 - size, size - 1, axis=1)
        follows = (last[:, None] == group[:, :-1]).all(axis=-1) & (size <= step + 2)  # [R, M]
        ends = jnp.broadcast_to(group[:, -1], follows.shape)
        scores = jnp.where(_has(ends, follows, scores), -jnp.inf, scores)
    return scores


def forced_at(
    scores: jax.Array, tokens: jax.Array, step: ArrayLike, *, place: int, token: int
) -> jax.Array:
    """Forces `token` where `step` is `place`, for a score of 0: it had no alternative."""
    forced = jnp.where(jnp.arange(scores.shape[1]) == token, 0.0, -jnp.inf)
    return jnp.where(step == place, forced, scores)


def _has(tokens: jax.Array, counts: jax.Array, scores: jax.Array) -> jax.Array:
    """bool [R, V], of the shape of `scores`: whether a token is among those of its row that count.

    `tokens` int32 and `counts` bool have one shape, [R, any].
    """
    rows = jnp.arange(len(tokens))[:, None]
    return jnp.zeros(scores.shape, bool).at[rows, tokens].max(counts)
