"""The search of a batch: its models' decode_step, and the programs that take its steps."""

import functools
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from transformer_jax.config.checks import forbidden_sequences
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, DecodeConfig
from transformer_jax.functional import probabilities
from transformer_jax.inference import constraints
from transformer_jax.inference.limits import Adjust, Limits
from transformer_jax.inference.search import beam_search, greedy_search, sample
from transformer_jax.inference.search_loop import (
    Cache,
    Loop,
    Rows,
    Search,
    SearchResult,
    State,
    keep_rows,
    until_done,
)
from transformer_jax.model.transformer import Transformer, grow_cache
from transformer_jax.parallel.devices import DataParallel

# A batch is not made smaller than this: fewer rows would hardly take less time, but more programs.
FEWEST_ROWS = 4


class BatchSearch:
    """Searches batches by three programs, so that sentences leave their batch once they are done.

    `start` encodes B sentences. `advance` takes steps until at most half of the rows are active, or
    the cache is full. `resize` then keeps the active rows, a power of two, and gives the cache more
    room: every step reads and reorders all of it, and most translations are far shorter than the
    longest possible one.

    They are compiled for each source length with each power of two of rows (and the most) and each
    room, when it is first needed; when that is depends on when the sentences of a batch are done.
    """

    def __init__(
        self, models: Sequence[Transformer], decode: DecodeConfig, devices: DataParallel
    ) -> None:
        """Takes models with the same vocabularies, whose probabilities are averaged."""
        self._decode, self._devices = decode, devices

        def start(
            params: Any,
            source_tokens: jax.Array,
            prefix: jax.Array,
            row_ids: jax.Array,
            key_data: jax.Array,
        ) -> State:
            rooms = _rooms(decode, source_tokens.shape[1])
            given = source_tokens, prefix, row_ids, jax.random.wrap_key_data(key_data)
            begun = _begin(models, decode, params, *given, room=rooms[0])
            return devices.divided(_search(models, decode, params, rooms[-1]).start(*begun))

        def advance(
            params: Any, state: State, n_best: jax.Array, room: jax.Array, fewest: jax.Array
        ) -> tuple[State, tuple[jax.Array, jax.Array, SearchResult]]:
            search = _search(models, decode, params, state.live.tokens.shape[-1], n_best)
            proceed = lambda s: (jnp.sum(s.active) > fewest) & (s.step < room)  # noqa: E731
            state = lax.while_loop(proceed, lambda s: search.step(s)[0], state)
            seen = state.active, state.step, search.result(state)
            return devices.divided(state), devices.whole(seen)

        def resize(state: State, rows: jax.Array, *, room: int) -> State:
            state = keep_rows(state, rows)
            cache = tuple(grow_cache(cache, room) for cache in state.cache)
            return devices.divided(state._replace(cache=cache))

        self._start = jax.jit(start)
        self._advance = jax.jit(advance, donate_argnums=1)
        self._resize = jax.jit(resize, static_argnames="room")

    def __call__(
        self,
        params: Sequence[Any],
        source_tokens: np.ndarray,
        prefix: np.ndarray,
        row_ids: np.ndarray,
        key_data: np.ndarray,
        *,
        n_best: np.ndarray,
    ) -> SearchResult:
        """As `search_batch`, of host arrays, with `key_data` of the PRNG key; so is the result."""
        params, put = tuple(params), self._devices.put
        state = self._start(params, *map(put, (source_tokens, prefix, row_ids)), key_data)
        rooms = iter(_rooms(self._decode, source_tokens.shape[1]))
        numbers, room, found = np.arange(len(source_tokens)), next(rooms), None
        while True:
            half = len(numbers) // 2
            fewest = half if self._size(half) < len(numbers) else 0
            state, seen = self._advance(params, state, n_best, room, fewest)
            active, step, result = jax.device_get(seen)
            if found is None:
                found = jax.tree.map(np.array, result)
            for all_rows, some in zip(found, result, strict=True):
                all_rows[numbers] = some
            if not active.any():
                return found
            kept = np.argsort(~active, kind="stable")[: self._size(np.sum(active))]
            numbers, room = numbers[kept], next(rooms) if step == room else room
            state = self._resize(state, kept, room=room)

    def _size(self, count: int) -> int:
        """How many rows a batch has of which `count` are active."""
        return self._devices.round_up(max(FEWEST_ROWS, 1 << (int(count) - 1).bit_length()))


def search_batch(
    models: Sequence[Transformer],
    decode: DecodeConfig,
    params: Sequence[Any],
    source_tokens: jax.Array,
    prefix: jax.Array,
    row_ids: jax.Array,
    rng: jax.Array,
    *,
    n_best: ArrayLike | None = None,
    loop: Loop = until_done,
) -> SearchResult:
    """Encodes a batch and searches its translations, in one program.

    Args:
      models: one, or several with the same vocabularies, whose probabilities are averaged.
      decode: the method and its options.
      params: each model's parameters.
      source_tokens: int32 [B, S], each sentence with its <eos>, padded; a row of padding alone
        yields a translation of nothing.
      prefix: int32 [B, P], what each translation has to begin with, padded; P is free.
      row_ids: int32 [B], numbers that decide what each row draws when sampling.
      rng: PRNG key for sampling.
      n_best: how many hypotheses of each row are wanted, see `beam_search`; None = K.
      loop: what takes the steps.

    Returns:
      The hypotheses; K = beam_size, or 1 without a beam.
    """
    room = longest(decode, source_tokens.shape[1])
    begun = _begin(models, decode, params, source_tokens, prefix, row_ids, rng, room=room)
    return _search(models, decode, params, room, n_best)(*begun, loop=loop)


def num_beams(decode: DecodeConfig) -> int:
    """K: how many translations of a sentence one search finds."""
    return decode.beam_size if decode.method == "beam" else 1


def longest(decode: DecodeConfig, source_length: int) -> int:
    """The most pieces of a translation, with its <eos>, of a source of so many pieces."""
    return min(source_length + decode.extra_length, decode.max_length or sys.maxsize)


def _rooms(decode: DecodeConfig, source_length: int) -> tuple[int, ...]:
    """How much room the cache has at first, and whenever it grows: S, 2S, and the most."""
    most = longest(decode, source_length)
    return (*(room for room in (source_length, 2 * source_length) if room < most), most)


def _begin(
    models: Sequence[Transformer],
    decode: DecodeConfig,
    params: Sequence[Any],
    source_tokens: jax.Array,
    prefix: jax.Array,
    row_ids: jax.Array,
    rng: jax.Array,
    *,
    room: int,
) -> tuple[Any, Cache, Rows]:
    """What a search starts with: each model's memory, its cache, and what the rows are given."""
    options = {"max_length": room, "beam_size": num_beams(decode), "method": "start_decoding"}
    starts = [
        model.apply({"params": p}, source_tokens, **options)
        for model, p in zip(models, params, strict=True)
    ]
    # A row of padding alone (the batch was not full) ends after one token.
    lengths = jnp.sum(source_tokens != PAD_ID, axis=1)
    limit = jnp.where(lengths == 0, 1, lengths + decode.extra_length)
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, row_ids)
    return *zip(*starts, strict=True), Rows(limit, prefix, rngs)


def _search(
    models: Sequence[Transformer],
    decode: DecodeConfig,
    params: Sequence[Any],
    max_length: int,
    n_best: ArrayLike | None = None,
) -> Search:
    """The search that `decode` asks for, of translations of at most `max_length` pieces."""

    def decode_step(memories: Any, caches: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        steps = [
            model.apply({"params": p}, memory, cache, tokens, method="decode_step")
            for model, p, memory, cache in zip(models, params, memories, caches, strict=True)
        ]
        logits, caches = zip(*steps, strict=True)
        return probabilities.ensemble(logits), caches

    ids = {"bos_id": BOS_ID, "eos_id": EOS_ID, "pad_id": PAD_ID, "unk_id": UNK_ID}
    limits = Limits(max_length, **ids, adjust=_adjust(decode, max_length))
    if decode.method == "greedy":
        return greedy_search(decode_step, limits)
    if decode.method == "sample":
        how = {"temperature": decode.temperature, "top_k": decode.top_k, "top_p": decode.top_p}
        return sample(decode_step, limits, **how)
    return beam_search(
        decode_step,
        limits,
        beam_size=decode.beam_size,
        length_penalty=decode.length_penalty,
        length_penalty_form=decode.length_penalty_form,
        n_best=n_best,
    )


def _adjust(decode: DecodeConfig, max_length: int) -> Adjust | None:
    """The constraints that `decode` asks for, as one function; None = none.

    Their order is that of Hugging Face.
    """
    steps = []
    if decode.repetition_penalty != 1:
        penalty = decode.repetition_penalty
        steps.append(partial(constraints.penalised_repetitions, penalty=penalty))
    if decode.no_repeat_ngram_size:
        steps.append(partial(constraints.no_repeated_ngrams, size=decode.no_repeat_ngram_size))
    if sequences := forbidden_sequences(decode):
        which = {"sequences": sequences, "bos_id": BOS_ID}
        steps.append(partial(constraints.without_sequences, **which))
    if decode.first_id:
        steps.append(partial(constraints.forced_at, place=0, token=decode.first_id))
    if decode.max_length == max_length:  # a row may get that long
        steps.append(partial(constraints.forced_at, place=max_length - 1, token=EOS_ID))
    if not steps:
        return None
    return lambda scores, *made: functools.reduce(lambda x, step: step(x, *made), steps, scores)
