"""The state of a search, and the loops that take its steps. Letters as in search.py."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Cache = Any


class SearchResult(NamedTuple):
    """The hypotheses of each row, best first; K = 1 for greedy search and sampling.

    A hypothesis is complete if its last token, `tokens[b, k, length - 1]`, is `eos_id`; one without
    was cut at its row's limit. A slot for which no hypothesis exists (the vocabulary is too small
    for K of them) has log_prob and score -inf, length 0, and only padding.
    """

    tokens: jax.Array  # int32 [B, K, T], padded with pad_id
    log_prob: jax.Array  # float32 [B, K], nats: the sum of token_log_probs
    # float32 [B, K]: log_prob over the length penalty (beam search), after Limits.adjust if given
    score: jax.Array
    length: jax.Array  # int32 [B, K]
    token_log_probs: jax.Array  # float32 [B, K, T], nats, padded with 0


class State(NamedTuple):
    """A search between two steps."""

    step: jax.Array  # int32 []
    limit: jax.Array  # int32 [B]
    active: jax.Array  # bool [B]
    last: jax.Array  # int32 [B, K], what decode_step reads next
    live: SearchResult  # may still grow; by falling log_prob
    finished: SearchResult  # ends in eos_id; by falling score, -inf in a free slot; only for beams
    cache: Cache


class Extensions(NamedTuple):
    """The best ways to grow the live hypotheses by one token, best first."""

    parent: jax.Array  # int32 [B, C], the live hypothesis that grows
    token: jax.Array  # int32 [B, C]
    log_prob: jax.Array  # float32 [B, C], of the whole; -inf = impossible


# A step gives the next state, and a function that lists the best C extensions that it considered,
# which costs nothing unless a loop calls it.
Body = Callable[[State], tuple[State, Callable[[int], Extensions]]]
Loop = Callable[[Body, State], State]


def until_done(body: Body, state: State) -> State:
    """Takes steps until every row is done. Another loop may keep what it sees of each."""
    return lax.while_loop(lambda state: jnp.any(state.active), lambda state: body(state)[0], state)


def growing(
    body: Body, state: State, *, rooms: Sequence[int], grow: Callable[[Cache, int], Cache]
) -> State:
    """As `until_done`, with a cache that grows; the state that is left has none.

    Every step reads and reorders the whole cache, and most translations are far shorter than the
    longest possible one. So the cache begins with room for rooms[0] tokens, and `grow(cache, room)`
    gives it the next of `rooms` when the search has come to its end; the last one is T.
    """
    room, *larger = rooms
    advance = lambda state: body(state)[0]  # noqa: E731
    state = lax.while_loop(lambda s: jnp.any(s.active) & (s.step < room), advance, state)
    if not larger:
        return state._replace(cache=())

    def more(state: State) -> State:
        state = state._replace(cache=grow(state.cache, larger[0]))
        return growing(body, state, rooms=larger, grow=grow)

    done = lambda state: state._replace(cache=())  # noqa: E731
    return lax.cond(jnp.any(state.active), more, done, state)
