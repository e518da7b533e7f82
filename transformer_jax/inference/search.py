"""Greedy search, sampling and beam search over any `decode_step`; nothing here knows the model.

`decode_step(memory, cache, tokens) -> (logits, cache)` advances R rows by one token: `tokens` int32
[R] is the previous token of every row (first `bos_id`); `logits` [R, V], of any float dtype, score
the next. R is B for greedy search and sampling, and B*K for beam search, where row b*K + k is beam
k of sentence b. Memory and cache are pytrees. The memory is what all beams of a sentence share (the
encoded source, its keys and values): its leaves have leading axis B, and no step changes it. A leaf
of the cache has leading axis R and follows its beam, or is a scalar (the position), which all rows
share.

A search is a `Search`, three functions: one that starts it, one that takes a step, and one that
reads its result. Called, it takes steps until every row is done; a loop may keep what it sees of
each step, and a search may continue with some of its rows (`keep_rows`).

`pad_id`, `bos_id` and `unk_id` are never generated: they are no text. The probability that a model
gives them is not shared out among the rest, so that log-probs are the model's own, as in scoring a
given text (Hugging Face's `bad_words_ids` does the same). `Limits.adjust` leaves log-probs alone,
too: it rewrites what tokens are chosen by, and with beams the `score`.

A length counts generated tokens: without `bos_id`, with `eos_id`. Every function is pure and meant
for use inside `jax.jit`. What a row gets depends on that row alone: not on the rest of the batch,
nor on how far max_length exceeds its limit.
Letters: B batch, K beams, R rows, V vocabulary, T max_length, C candidates.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from transformer_jax.inference.largest import largest
from transformer_jax.inference.limits import Limits
from transformer_jax.inference.search_loop import (
    Cache,
    Extensions,
    Rows,
    Search,
    SearchResult,
    State,
)

DecodeStep = Callable[[Any, Cache, jax.Array], tuple[jax.Array, Cache]]
Choose = Callable[[jax.Array, State], jax.Array]  # logits [B, V] -> tokens [B]


def greedy_search(decode_step: DecodeStep, limits: Limits) -> Search:
    """Takes the most probable token at every step."""
    return _search_rows(decode_step, limits, lambda logits, state: largest(logits, 1)[1][:, 0])


def sample(
    decode_step: DecodeStep,
    limits: Limits,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Search:
    """Draws every token from the model's distribution, sharpened and truncated as asked.

    A draw is decided by the key of its row (`Rows.rngs`) and its position alone. The log-probs
    returned are the model's own, before temperature and truncation.

    Args:
      temperature: static; divides the logits. Towards 0, sampling becomes greedy search.
      top_k: static; keeps the k most probable tokens (Fan et al. 2018), 0 all.
      top_p: static; of those, the fewest that sum to top_p (Holtzman et al. 2020), 1 all. Without
        top_k it sorts all of V at every step, which is slow on CPU.
    Raises ValueError for temperature <= 0, top_k < 0, or top_p outside (0, 1].
    """
    if temperature <= 0:
        raise ValueError(f"{temperature=} must be above 0; its limit is greedy_search")
    if top_k < 0:
        raise ValueError(f"{top_k=} must be at least 0 (0 keeps every token)")
    if not 0 < top_p <= 1:
        raise ValueError(f"{top_p=} must lie in (0, 1] (1 keeps every token)")

    def choose(logits: jax.Array, state: State) -> jax.Array:
        rngs = jax.vmap(jax.random.fold_in, (0, None))(state.rows.rngs, state.step)
        kept, tokens = _truncate(logits / temperature, top_k, top_p)
        picks = jax.vmap(jax.random.categorical)(rngs, kept)
        return jnp.take_along_axis(tokens, picks[:, None], axis=1)[:, 0]

    return _search_rows(decode_step, limits, choose)


def beam_search(
    decode_step: DecodeStep,
    limits: Limits,
    *,
    beam_size: int,
    length_penalty: ArrayLike = 0.6,
    length_penalty_form: str = "gnmt",
    n_best: ArrayLike | None = None,
) -> Search:
    """Beam search (Vaswani et al. 2017, section 6.1: beam 4, penalty 0.6, limit source + 50).

    A row stops once no live hypothesis can enter its n best finished ones, under the most
    favourable penalty within reach; so stopping early never changes those. Where fewer than K are
    finished when a row stops, live hypotheses (without `eos_id`) fill the slots after them.

    Args:
      beam_size: K, static; the cache that the search starts with has B*K rows (`tile_beams`).
      length_penalty: alpha of `length_normalizer`; 0 ranks by log_prob, more favours longer output.
      length_penalty_form: "gnmt" or "power", static, see `length_normalizer`.
      n_best: how many of the K hypotheses are wanted, int32 scalar in [1, K]; None = K. The others
        are what was found by then. Fewer take fewer steps.
    Raises ValueError for beam_size < 1 or an unknown form, and when it steps, for a cache that is
    not tiled.
    """
    if beam_size < 1:
        raise ValueError(f"{beam_size=} must be at least 1")
    normalizer = partial(length_normalizer, length_penalty=length_penalty, form=length_penalty_form)
    wanted = beam_size if n_best is None else n_best

    def body(state: State) -> tuple[State, Callable[[int], Extensions]]:
        step, length = state.step, state.step + 1
        logits, cache = decode_step(state.memory, state.cache, state.last.reshape(-1))
        logits = logits.reshape(*state.last.shape, -1)
        gains = None
        if limits.adjust is not None:
            log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
            gains = limits.adjusted(log_probs, state.live.tokens, state.rows.prefix, step)
        allowed = limits.allowed(state.rows.prefix, step, logits.shape[-1])
        given = logits, allowed, state.live, state.finished, normalizer(length)
        live, parent, finished = beam_step(*given, step=step, eos_id=limits.eos_id, gains=gains)
        # A row that has stopped must not change while the others continue.
        live, finished = _select(state.active, (live, finished), (state.live, state.finished))
        # From here log_prob only falls, and the normalizer is monotonic in the length.
        best_normalizer = jnp.maximum(normalizer(length + 1), normalizer(state.rows.limit))
        worst = jnp.take(finished.score, wanted - 1, axis=1)
        can_improve = live.log_prob[:, 0] / best_normalizer > worst
        active = state.active & (length < state.rows.limit) & can_improve
        last, cache = live.tokens[:, :, step], _reorder(cache, parent)
        consider = partial(_considered, logits, allowed, state.live.log_prob, gains)
        after = State(length, state.rows, state.memory, active, last, live, finished, cache)
        return after, consider

    def result(state: State) -> SearchResult:
        found = _fill_free_slots(state.finished, state.live, limits.pad_id)
        if limits.adjust is None:
            return found
        log_prob = jnp.sum(found.token_log_probs, axis=-1)
        return found._replace(log_prob=jnp.where(found.score > -jnp.inf, log_prob, -jnp.inf))

    return Search(partial(_start, limits, beam_size), body, result)


def beam_step(
    logits: jax.Array,
    allowed: jax.Array,
    live: SearchResult,
    finished: SearchResult,
    normalizer: ArrayLike,
    *,
    step: ArrayLike,
    eos_id: int,
    gains: jax.Array | None = None,
) -> tuple[SearchResult, jax.Array, SearchResult]:
    """Grows every live hypothesis by one token; keeps the K best live and the K best finished.

    The 2K best extensions are enough: at most K of them end (one per beam), so K stay live. An end
    counts only among the best K (as in fairseq and Hugging Face; T2T and Flax take it from all 2K),
    which makes K = 1 without length penalty greedy search.

    Example, with K = 2, the vocabulary (pad, eos, a, b), and no length penalty. After "a" and "b",
    with probabilities 0.6 and 0.4, the model gives (eos, a, b) probabilities (0.5, 0.3, 0.2) and
    (0.1, 0.8, 0.1). The 2K best extensions are

      b a 0.32    a eos 0.30    a a 0.18    a b 0.12

    so the live ones become "b a" and "a a", grown from beams 1 and 0 (`parent`), and "a eos" is
    finished, with score log 0.30. "a b" is forgotten.

    Args:
      logits: float [B, K, V].
      allowed: bool [B or 1, V], the tokens that may come next, from `allowed_tokens`.
      live: hypotheses of length `step`, log_prob -inf where there is none.
      finished: hypotheses by falling score, -inf where there is none.
      normalizer: float32 scalar, `length_normalizer` of step + 1.
      step: int32 scalar, the number of tokens generated so far.
      gains: float32 [B, K, V], at most 0, to rank by in place of log-probs; None = log-probs. What
        `log_prob` adds up is then gains.
    Returns (live, parent int32 [B, K]: the beam that each live hypothesis grew from, finished).
    """
    beam_size = live.log_prob.shape[1]
    parent, token, gain = _best_extensions(logits, allowed, live.log_prob, 2 * beam_size, gains)
    nats = gain
    if gains is not None:
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        nats = _of_extensions(log_probs, parent, token)
    grown = _append(_gather_beams(live, parent), step, token, gain, nats)
    grown = grown._replace(score=grown.log_prob / normalizer, length=grown.length + 1)
    ends = token == eos_id
    counts = ends & (jnp.arange(ends.shape[1]) < beam_size)
    ending = grown._replace(score=jnp.where(counts, grown.score, -jnp.inf))
    pool = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), finished, ending)
    finished = _gather_beams(pool, lax.top_k(pool.score, beam_size)[1])

    grown = grown._replace(log_prob=jnp.where(ends, -jnp.inf, grown.log_prob))
    best = lax.top_k(grown.log_prob, beam_size)[1]
    return *_gather_beams((grown, parent), best), finished


def length_normalizer(length: jax.Array, *, length_penalty: ArrayLike, form: str) -> jax.Array:
    """What log_prob is divided by to give the score: float32, of length's shape.

    "gnmt": ((5 + length) / 6) ** length_penalty (Wu et al. 2016, section 7).
    "power": length ** length_penalty (Hugging Face, CTranslate2).
    """
    if form not in ("gnmt", "power"):
        raise ValueError(f"length penalty {form=} is neither 'gnmt' nor 'power'")
    length = jnp.maximum(length, 1).astype(jnp.float32)  # a row of limit 0 would give 0 / 0
    base = (5.0 + length) / 6.0 if form == "gnmt" else length
    return base ** jnp.float32(length_penalty)


def tile_beams(tree: Any, beam_size: int) -> Any:
    """Repeats every row of the leaves [B, ...] K times, to [B*K, ...]; scalar leaves stay."""
    return jax.tree.map(lambda x: jnp.repeat(x, beam_size, axis=0) if jnp.ndim(x) else x, tree)


def _start(limits: Limits, beam_size: int, memory: Any, cache: Cache, rows: Rows) -> State:
    """The state before the first token."""
    if limits.max_length < 1:
        raise ValueError(f"max_length={limits.max_length} must be at least 1")
    shape = len(rows.limit), beam_size
    rows = rows._replace(limit=jnp.minimum(rows.limit, limits.max_length))
    tokens = jnp.full((*shape, limits.max_length), limits.pad_id, jnp.int32)
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    score, length = zeros[..., 0], jnp.zeros(shape, jnp.int32)
    # One beam starts; K equal ones would fill the beam with K copies of each hypothesis.
    live = SearchResult(tokens, score.at[:, 1:].set(-jnp.inf), score, length, zeros)
    finished, last = live._replace(score=score - jnp.inf), length + limits.bos_id
    return State(jnp.int32(0), rows, memory, rows.limit > 0, last, live, finished, cache)


def _search_rows(decode_step: DecodeStep, limits: Limits, choose: Choose) -> Search:
    """One hypothesis per row, of the tokens that `choose` picks among the allowed ones."""

    def body(state: State) -> tuple[State, Callable[[int], Extensions]]:
        step, live, active = state.step, state.live, state.active[:, None]
        logits, cache = decode_step(state.memory, state.cache, state.last[:, 0])
        logits = logits.astype(jnp.float32)
        allowed = limits.allowed(state.rows.prefix, step, logits.shape[-1])
        choosable = limits.adjusted(logits, live.tokens, state.rows.prefix, step)
        choosable = jnp.where(allowed, choosable, -jnp.inf)
        token = jnp.where(active, choose(choosable, state)[:, None], limits.pad_id)
        token = token.astype(jnp.int32)
        token_log_prob = jnp.where(active, _log_probs_at(logits, token), 0.0)
        live = _append(live, step, token, token_log_prob, token_log_prob)
        live = live._replace(score=live.log_prob, length=live.length + active)
        unfinished = state.active & (token[:, 0] != limits.eos_id) & (step + 1 < state.rows.limit)

        def consider(count: int) -> Extensions:
            best, tokens = lax.top_k(choosable, min(count, choosable.shape[-1]))
            nats = jnp.where(best > -jnp.inf, _log_probs_at(logits, tokens), -jnp.inf)
            return Extensions(jnp.zeros_like(tokens), tokens, state.live.log_prob + nats)

        after = state._replace(step=step + 1, active=unfinished, last=token, live=live, cache=cache)
        return after, consider

    return Search(partial(_start, limits, 1), body, lambda state: state.live)


def _log_probs_at(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """log softmax(logits [B, V]) at tokens [B, C] alone."""
    total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    return jnp.minimum(jnp.take_along_axis(logits, tokens, axis=1) - total, 0.0)


def _truncate(logits: jax.Array, top_k: int, top_p: float) -> tuple[jax.Array, jax.Array]:
    """Logits [B, V] -> (logits [B, C], -inf where top_p drops; the token of each, int32 [B, C])."""
    if top_k == 0 and top_p == 1:  # spares the sort
        return logits, jnp.broadcast_to(jnp.arange(logits.shape[1]), logits.shape)
    kept, tokens = largest(logits, min(top_k or logits.shape[1], logits.shape[1]))
    if top_p < 1:
        probs = jax.nn.softmax(kept)
        # The sum *before* a token decides, so the most probable one always stays.
        kept = jnp.where(jnp.cumsum(probs, axis=-1) - probs < top_p, kept, -jnp.inf)
    return kept, tokens


def _best_extensions(
    logits: jax.Array,
    allowed: jax.Array,
    log_prob: jax.Array,
    count: int,
    gains: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
    """The C = min(count, K*V) best extensions of hypotheses of log_prob [B, K], logits [B, K, V].

    Returns parent int32, token int32, gain float32 (the token's log-prob, unless `gains` has
    another; -inf if impossible), all [B, C].
    """
    gains = jax.nn.log_softmax(logits.astype(jnp.float32)) if gains is None else gains
    # At most 0, whatever the rounding: the early stop relies on sums that only fall. Where nothing
    # is possible they are nan.
    possible = allowed[:, None] & ~jnp.isnan(gains)
    gains = jnp.where(possible, jnp.minimum(gains, 0.0), -jnp.inf)
    sums = (log_prob[..., None] + gains).reshape(log_prob.shape[0], -1)
    index = largest(sums, min(count, sums.shape[1]))[1]
    parent, token = index // gains.shape[-1], index % gains.shape[-1]
    return parent, token, _of_extensions(gains, parent, token)


def _of_extensions(x: jax.Array, parent: jax.Array, token: jax.Array) -> jax.Array:
    """The entries [B, C] of x [B, K, V] at the tokens and the beams that they extend."""
    return jax.vmap(lambda row, k, v: row[k, v])(x, parent, token)


def _considered(
    logits: jax.Array,
    allowed: jax.Array,
    log_prob: jax.Array,
    gains: jax.Array | None,
    count: int,
) -> Extensions:
    parent, token, gain = _best_extensions(logits, allowed, log_prob, count, gains)
    return Extensions(parent, token, _gather_beams(log_prob, parent) + gain)


def _fill_free_slots(finished: SearchResult, live: SearchResult, pad_id: int) -> SearchResult:
    """Puts live hypotheses into the slots that no finished one took, and blanks what is left."""
    slot = jnp.arange(live.score.shape[1])
    num_finished = jnp.sum(finished.score > -jnp.inf, axis=1, keepdims=True)
    unfinished = _gather_beams(live, jnp.maximum(slot - num_finished, 0))
    result = jax.vmap(_select)(slot < num_finished, finished, unfinished)
    blank = jax.tree.map(jnp.full_like, result, SearchResult(pad_id, -jnp.inf, -jnp.inf, 0, 0.0))
    return jax.vmap(_select)(result.log_prob > -jnp.inf, result, blank)


def _gather_beams(tree: Any, index: jax.Array) -> Any:
    """Selects along axis 1: leaves [B, K, ...] and index [B, C] give [B, C, ...]."""
    return jax.tree.map(lambda x: jax.vmap(lambda row, i: row[i])(x, index), tree)


def _reorder(cache: Cache, parent: jax.Array) -> Cache:
    """Moves the rows of beam parent[b, k] to beam k: leaves [B*K, ...], parent [B, K]."""
    if parent.shape[1] == 1:  # spares a copy of the cache
        return cache

    def reorder(x: jax.Array) -> jax.Array:
        if x.shape[0] != parent.size:
            raise ValueError(f"cache leaf {x.shape} has not B*K = {parent.size} rows: tile_beams?")
        # Batched over B, not flat over B*K, so that a cache sharded over B stays where it is.
        return _gather_beams(x.reshape(*parent.shape, *x.shape[1:]), parent).reshape(x.shape)

    return jax.tree.map(lambda x: reorder(x) if jnp.ndim(x) else x, cache)


def _append(
    live: SearchResult, step: ArrayLike, token: jax.Array, gain: jax.Array, nats: jax.Array
) -> SearchResult:
    """Writes token and its log-prob [B, C] at `step`; the caller sets score and length."""
    return live._replace(
        tokens=live.tokens.at[:, :, step].set(token),
        log_prob=live.log_prob + gain,
        token_log_probs=live.token_log_probs.at[:, :, step].set(nats),
    )


def _select(keep: jax.Array, a: Any, b: Any) -> Any:
    """The rows of tree a where keep [B] is true, those of tree b elsewhere."""
    return jax.vmap(lambda k, a, b: jax.tree.map(partial(jnp.where, k), a, b))(keep, a, b)
