"""A search in its parts, its state, and the loop that takes its steps. Letters as in search.py."""

from collections.abc import Callable
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


class Rows(NamedTuple):
    """What the rows of a search are given.

    A row of limit 0 (one that pads the batch) gets length 0 and delays nobody.
    """

    limit: jax.Array  # int32 [B], the most tokens a row may generate
    # int32 [B, P], the tokens that each row begins with, padded with pad_id; they count as
    # generated, and their log-probs like any.
    prefix: jax.Array | None = None
    rngs: jax.Array | None = None  # PRNG keys [B], which decide what a row draws when sampling


class State(NamedTuple):
    """A search between two steps."""

    step: jax.Array  # int32 []
    rows: Rows
    memory: Any  # what decode_step reads and no step changes
    active: jax.Array  # bool [B], False = done
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


class Search(NamedTuple):
    """A search in its parts; called, it is taken from its start to its result."""

    start: Callable[[Any, Cache, Rows], State]  # of memory, cache and rows
    step: Body
    result: Callable[[State], SearchResult]

    def __call__(
        self, memory: Any, cache: Cache, rows: Rows, *, loop: Loop = until_done
    ) -> SearchResult:
        return self.result(loop(self.step, self.start(memory, cache, rows)))


def keep_rows(state: State, rows: jax.Array) -> State:
    """The same search, of its rows `rows` int32 [C] alone."""
    shape = state.last.shape

    def keep(x: jax.Array) -> jax.Array:
        return x[rows] if x.ndim else x

    def keep_beams(x: jax.Array) -> jax.Array:
        return keep(x.reshape(*shape, *x.shape[1:])).reshape(-1, *x.shape[1:]) if x.ndim else x

    kept = jax.tree.map(keep, state._replace(cache=()))
    return kept._replace(cache=jax.tree.map(keep_beams, state.cache))
