"""From text to text: sentences → batches of fixed shapes → search → sentences in their order."""

import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from transformer_jax.config.checks import forbidden_sequences
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, DecodeConfig
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers
from transformer_jax.errors import UserError
from transformer_jax.functional import probabilities
from transformer_jax.inference import constraints
from transformer_jax.inference.batching import by_length, padded, source_lengths
from transformer_jax.inference.limits import Adjust, Limits
from transformer_jax.inference.search import DecodeStep, beam_search, greedy_search, sample
from transformer_jax.inference.search_loop import Loop, SearchResult, growing
from transformer_jax.inference.sources import Sources
from transformer_jax.model.transformer import Transformer, grow_cache
from transformer_jax.parallel.devices import DataParallel, one_device

# Sentences among which those of like lengths share a batch: enough to fill nearly every batch, and
# few enough to be translated in minutes.
WINDOW = 4096


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
      text: detokenised.
      score: what the search ranks by: the log-probability over the length penalty.
      log_prob: natural logarithm of the probability of the pieces and their <eos>.
      ids: the pieces, <eos> included unless it was cut off.
      token_log_probs: of each piece; log_prob is their sum.
    """

    text: str
    score: float
    log_prob: float
    ids: tuple[int, ...] = ()
    token_log_probs: tuple[float, ...] = ()


def first_best(hypotheses: Iterable[Sequence[Hypothesis]]) -> list[str]:
    """The best text of each sentence; "" where there is none."""
    return [h[0].text if h else "" for h in hypotheses]


class Translator:
    """Translates sentences, by the mean of several models' probabilities if there are several.

    Compiles once for each shape it meets.
    """

    def __init__(
        self,
        models: Sequence[Transformer],
        tokenizers: Tokenizers,
        decode: DecodeConfig,
        *,
        seed: int = 0,
        devices: DataParallel | None = None,
    ) -> None:
        """Takes `models` that share the tokenizers; `seed` decides what sampling draws.

        `devices` share the sentences; None = the first device.

        Raises:
          UserError: if learned positions do not suffice for one source token and extra_length, or
            `decode` names a piece that the vocabularies lack.
        """
        self.tokenizers, self.decode = tokenizers, decode
        _check_ids(decode, tokenizers.target.vocab_size)
        self._sources = Sources(tokenizers.source, decode.target_token)
        self._lengths = source_lengths([model.config for model in models], decode.extra_length)
        self._devices = devices or one_device()
        self._seed = np.uint32(seed)

        def run(params: Any, *args: jax.Array) -> SearchResult:
            *arrays, key_data, n_best = args
            rng = jax.random.wrap_key_data(key_data)
            return search_batch(models, decode, params, *arrays, rng, n_best=n_best)

        self._search = self._devices.compile(run)

    def translate(
        self,
        params: Sequence[Any],
        sentences: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        n_best: int | None = None,
        progress: Callable[[int], None] = lambda count: None,
    ) -> list[list[Hypothesis]]:
        """The n best translations of each sentence, best first, in the order of `sentences`.

        Sampling gives them in the order in which they are drawn. The seed, the number of the
        sentence and that of the sample decide each, and nothing else.

        A blank sentence, which has no pieces, is not searched and has one empty translation; a
        sentence of more pieces than the largest shape has none, nor has one whose prefix leaves no
        room for a translation.

        Args:
          params: each model's parameters.
          sentences: raw text.
          prefixes: the text that each translation has to begin with; None = any. It is cut into
            pieces by itself, and the translation continues after its last piece.
          n_best: how many translations of each sentence to return, at most: a beam search finds
            few sooner, and sampling draws as many. None = as many as the beam has, or one.
          progress: called now and then with the number of sentences done since the last call.
        """
        results: list[list[Hypothesis]] = [[] for _ in sentences]
        given = {"prefixes": prefixes, "n_best": n_best}
        for numbers, found in self.as_found(params, sentences, **given):
            for number, hypotheses in zip(numbers, found, strict=True):
                results[number] = hypotheses
            progress(len(numbers))
        return results

    def as_found(
        self,
        params: Sequence[Any],
        sentences: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        n_best: int | None = None,
        done: Container[int] = (),
        first: int = 0,
    ) -> Iterator[tuple[list[int], list[list[Hypothesis]]]]:
        """Yields what `translate` returns as it is found: numbers of sentences, and theirs.

        The translations of `WINDOW` sentences are complete before those of the next ones begin.

        Args:
          params: each model's parameters.
          sentences: raw text.
          prefixes, n_best: as of `translate`.
          done: numbers of sentences to leave out.
          first: the number of the first sentence.
        """
        # All of them, before hours of work.
        self._sources.check([text for n, text in enumerate(sentences, first) if n not in done])
        for start in range(0, len(sentences), WINDOW):
            places = range(start, min(start + WINDOW, len(sentences)))
            places = [place for place in places if first + place not in done]
            begins = [prefixes[place] if prefixes else "" for place in places]
            texts = [sentences[place] for place in places]
            numbers = [first + place for place in places]
            yield from self._window(params, numbers, texts, begins, n_best)

    def _window(
        self,
        params: Sequence[Any],
        numbers: Sequence[int],
        sentences: Sequence[str],
        prefixes: Sequence[str],
        n_best: int | None,
    ) -> Iterator[tuple[list[int], list[list[Hypothesis]]]]:
        sources = self._sources.encode(sentences)
        begins = self.tokenizers.target.encode(prefixes)
        if self.decode.first_id:  # where a prefix begins, nothing else is forced
            begins = [[self.decode.first_id, *b] if b else b for b in begins]
        rows = dict(zip(numbers, zip(sources, begins, strict=True), strict=True))
        todo = {n: len(ids) for n, (ids, begin) in rows.items() if self._searchable(ids, begin)}
        rest = [number for number in numbers if number not in todo]
        if rest:
            empty = [Hypothesis("", 0.0, 0.0)]
            yield rest, [empty if rows[n][0] == [EOS_ID] else [] for n in rest]
        most = self.decode.batch_size
        for (size, length), chunk in by_length(todo, self._lengths, lambda length: most):
            shape = self._devices.round_up(size), length
            yield chunk, self._run(params, [rows[n] for n in chunk], chunk, shape, n_best)

    def _searchable(self, ids: Sequence[int], begin: Sequence[int]) -> bool:
        """Whether a source with <eos> has pieces, fits, and leaves room after its prefix."""
        room = _longest(self.decode, len(ids)) - len(begin)
        return 1 < len(ids) <= self._lengths[-1] and room > 0

    def _run(
        self,
        params: Sequence[Any],
        rows: list[tuple[list[int], list[int]]],
        numbers: list[int],
        shape: tuple[int, int],
        n_best: int | None,
    ) -> list[list[Hypothesis]]:
        sources, begins = zip(*rows, strict=True)
        source_tokens = padded(sources, shape)
        prefix = padded(begins, (shape[0], _longest(self.decode, shape[1])))
        row_ids = np.zeros(shape[0], np.int32)
        row_ids[: len(numbers)] = numbers
        arrays = tuple(map(self._devices.put, (source_tokens, prefix, row_ids)))
        found: list[list[Hypothesis]] = [[] for _ in rows]
        beams = _beams(self.decode)
        wanted = np.int32(min(n_best or beams, beams))
        for draw in range(n_best or 1 if self.decode.method == "sample" else 1):
            key_data = self._key_data(draw)
            each = jax.device_get(self._search(tuple(params), *arrays, key_data, wanted))
            for row, hypotheses in enumerate(found):
                hypotheses += hypotheses_of(self.tokenizers.target, each, row, wanted)
        return found

    def _key_data(self, draw: int) -> np.ndarray:
        """What decides a draw of each sentence; the first is that of a single sample."""
        rng = jax.random.key(self._seed)
        return np.asarray(jax.random.key_data(jax.random.fold_in(rng, draw) if draw else rng))


def hypotheses_of(
    tokenizer: Tokenizer, found: SearchResult, row: int, n_best: int | None = None
) -> list[Hypothesis]:
    """The n best that a search found for one row of its batch, best first, as text; None = all."""
    kept = [k for k in range(found.score.shape[1]) if np.isfinite(found.score[row, k])][:n_best]
    # <0x0A> is a piece, and a line in must give a line out.
    decoded = tokenizer.decode(found.tokens[row, kept])
    texts = [re.sub(r"[\r\n]", " ", text) for text in decoded]
    lengths = found.length[row, kept]
    return [
        Hypothesis(
            text,
            float(found.score[row, k]),
            float(found.log_prob[row, k]),
            tuple(found.tokens[row, k, :length].tolist()),
            tuple(found.token_log_probs[row, k, :length].tolist()),
        )
        for text, k, length in zip(texts, kept, lengths, strict=True)
    ]


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
    loop: Loop | None = None,
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
      loop: what takes the steps; None = a loop in which the cache grows.

    Returns:
      The hypotheses; K = beam_size, or 1 without a beam.
    """
    beam_size = _beams(decode)
    max_length = _longest(decode, source_tokens.shape[1])
    rooms = _rooms(source_tokens.shape[1], max_length) if loop is None else (max_length,)
    room = {"max_length": rooms[0], "beam_size": beam_size}
    decode_step, caches = _start_decoding(models, params, source_tokens, room)
    # A row of padding alone (the batch was not full) ends after one token.
    lengths = jnp.sum(source_tokens != PAD_ID, axis=1)
    limit = jnp.where(lengths == 0, 1, lengths + decode.extra_length)
    ids = {"bos_id": BOS_ID, "eos_id": EOS_ID, "pad_id": PAD_ID, "unk_id": UNK_ID}
    adjust = _adjust(decode, max_length)
    limits = Limits(len(source_tokens), max_length, limit, **ids, prefix=prefix, adjust=adjust)
    grow = lambda caches, room: tuple(grow_cache(cache, room) for cache in caches)  # noqa: E731
    loop = loop or partial(growing, rooms=rooms, grow=grow)
    if decode.method == "greedy":
        return greedy_search(decode_step, caches, limits, loop=loop)
    if decode.method == "sample":
        how = {"temperature": decode.temperature, "top_k": decode.top_k, "top_p": decode.top_p}
        return sample(decode_step, caches, limits, rng=rng, row_ids=row_ids, **how, loop=loop)
    options = {
        "beam_size": beam_size,
        "length_penalty": decode.length_penalty,
        "length_penalty_form": decode.length_penalty_form,
        "n_best": n_best,
    }
    return beam_search(decode_step, caches, limits, **options, loop=loop)


def _check_ids(decode: DecodeConfig, vocab_size: int) -> None:
    sequences = {"decode.forbidden_ids": forbidden_sequences(decode)}
    for name, ids in (sequences | {"decode.first_id": ((decode.first_id,),)}).items():
        if (largest := max((max(row) for row in ids), default=0)) >= vocab_size:
            raise UserError(f"{name} has id {largest}, outside of a vocabulary of {vocab_size}")


def _beams(decode: DecodeConfig) -> int:
    """K: how many translations of a sentence one search finds."""
    return decode.beam_size if decode.method == "beam" else 1


def _longest(decode: DecodeConfig, source_length: int) -> int:
    """The most pieces of a translation, with its <eos>, of a source of so many pieces."""
    return min(source_length + decode.extra_length, decode.max_length or sys.maxsize)


def _rooms(source_length: int, max_length: int) -> tuple[int, ...]:
    """How much room the cache has at first, and whenever it grows: S, 2S, and the most."""
    rooms = (source_length, 2 * source_length)
    return (*(room for room in rooms if room < max_length), max_length)


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


def _start_decoding(
    models: Sequence[Transformer],
    params: Sequence[Any],
    source_tokens: jax.Array,
    room: dict[str, int],
) -> tuple[DecodeStep, Any]:
    """The search's view of the models: one decode_step over all their caches, and the caches."""
    starts = [
        model.apply({"params": p}, source_tokens, **room, method="start_decoding")
        for model, p in zip(models, params, strict=True)
    ]
    memories, caches = zip(*starts, strict=True)

    def decode_step(caches: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        steps = [
            model.apply({"params": p}, memory, cache, tokens, method="decode_step")
            for model, p, memory, cache in zip(models, params, memories, caches, strict=True)
        ]
        logits, caches = zip(*steps, strict=True)
        return probabilities.ensemble(logits), caches

    return decode_step, caches
