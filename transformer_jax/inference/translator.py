"""From text to text: sentences → batches of fixed shapes → search → sentences, in their order."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, DecodeConfig, ModelConfig
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.errors import UserError
from transformer_jax.functional import probabilities
from transformer_jax.inference import search as inference_search
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.devices import Rows, one_device

# Source lengths that searches are compiled for. A longer sentence is not translated.
SOURCE_LENGTHS = (16, 32, 64, 128, 256, 512, 1024)


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
        rows: Rows | None = None,
    ) -> None:
        """`models` share the tokenizers; `seed` decides what is drawn when sampling.

        `rows` spreads the sentences over devices; None = the first.

        Raises:
          UserError: if learned positions do not suffice for one source token and extra_length.
        """
        self.tokenizers, self.decode = tokenizers, decode
        self._lengths = source_lengths([model.config for model in models], decode.extra_length)
        self._rows = rows or one_device()

        self._seed = np.uint32(seed)

        def run(params: Any, *args: jax.Array) -> inference_search.SearchResult:
            *arrays, seed = args
            return search_batch(models, decode, params, *arrays, jax.random.key(seed))

        self._search = self._rows.compile(run)

    def translate(
        self,
        params: Sequence[Any],
        sentences: Sequence[str],
        *,
        prefixes: Sequence[str] | None = None,
        progress: Callable[[int], None] = lambda count: None,
    ) -> list[list[Hypothesis]]:
        """The n best translations of each sentence, best first, in the order of `sentences`.

        A blank sentence has one blank translation; a sentence of more pieces than the largest
        shape has none, nor has one whose prefix leaves no room for a translation.

        Args:
          params: each model's parameters.
          sentences: raw text.
          prefixes: the text that each translation has to begin with; None = any. It is cut into
            pieces alone, so that the translation goes on from its last piece.
          progress: told how many more sentences are done, now and then.
        """
        results: list[list[Hypothesis]] = [[] for _ in sentences]
        ids = [[*pieces, EOS_ID] for pieces in self.tokenizers.source.encode(sentences)]
        begins = self.tokenizers.target.encode(prefixes or [""] * len(sentences))
        for number, text in enumerate(sentences):
            if not text.strip():
                results[number] = [Hypothesis("", 0.0, 0.0)]
        room = [
            len(i) + self.decode.extra_length - len(b) for i, b in zip(ids, begins, strict=True)
        ]
        todo = [
            n
            for n, r in enumerate(results)
            if not r and len(ids[n]) <= self._lengths[-1] and room[n] > 0
        ]
        # Two batch sizes, whatever is asked: one sentence (a prompt), or a full batch.
        rows = self._rows.round_up(1 if len(todo) == 1 else self.decode.batch_size)
        for length, chunk in self._chunks(todo, ids):
            found = self._run(params, [(ids[n], begins[n]) for n in chunk], chunk, (rows, length))
            for number, hypotheses in zip(chunk, found, strict=True):
                results[number] = hypotheses
            progress(len(chunk))
        return results

    def _chunks(self, todo: list[int], ids: list[list[int]]) -> Iterator[tuple[int, list[int]]]:
        """Sentences that share a source length, at most a batch of them, shortest first."""

        def bucket(number: int) -> int:
            return next(s for s in self._lengths if s >= len(ids[number]))

        # By length within a bucket too: a batch searches until its longest translation ends.
        ordered = sorted(todo, key=lambda number: len(ids[number]))
        for length, members in itertools.groupby(ordered, key=bucket):
            numbers = list(members)
            for start in range(0, len(numbers), self.decode.batch_size):
                yield length, numbers[start : start + self.decode.batch_size]

    def _run(
        self,
        params: Sequence[Any],
        rows: list[tuple[list[int], list[int]]],
        numbers: list[int],
        shape: tuple[int, int],
    ) -> list[list[Hypothesis]]:
        sources, begins = zip(*rows, strict=True)
        source_tokens = padded(sources, shape)
        prefix = padded(begins, (shape[0], shape[1] + self.decode.extra_length))
        row_ids = np.zeros(shape[0], np.int32)
        row_ids[: len(numbers)] = numbers
        arrays = map(self._rows.put, (source_tokens, prefix, row_ids))
        found = jax.device_get(self._search(tuple(params), *arrays, self._seed))
        return [self._hypotheses(found, row) for row in range(len(rows))]

    def _hypotheses(self, found: inference_search.SearchResult, row: int) -> list[Hypothesis]:
        kept = [k for k in range(found.score.shape[1]) if np.isfinite(found.score[row, k])]
        # <0x0A> is a piece, and a line in must give a line out.
        decoded = self.tokenizers.target.decode(found.tokens[row, kept])
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


def padded(rows: Sequence[Sequence[int]], shape: tuple[int, int]) -> np.ndarray:
    """int32 of that shape, with each row's tokens at its start and padding elsewhere."""
    tokens = np.full(shape, PAD_ID, np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    return tokens


def source_lengths(models: Sequence[ModelConfig], extra_length: int) -> tuple[int, ...]:
    """The shapes of `SOURCE_LENGTHS` for which the models have positions, ascending.

    Args:
      models: their architectures; sinusoidal positions never end.
      extra_length: how much longer than the source a target may be.

    Raises:
      UserError: if learned positions do not suffice for one source token and `extra_length`.
    """
    learned = [model.max_positions for model in models if model.positions == "learned"]
    if not learned:
        return SOURCE_LENGTHS
    limit = min(learned) - extra_length
    if limit < 1:
        raise UserError(
            f"decode.extra_length={extra_length} leaves no source token of "
            f"model.max_positions={min(learned)}: lower it"
        )
    shorter = tuple(s for s in SOURCE_LENGTHS if s < limit)
    return shorter if shorter == SOURCE_LENGTHS else (*shorter, limit)


def search_batch(
    models: Sequence[Transformer],
    decode: DecodeConfig,
    params: Sequence[Any],
    source_tokens: jax.Array,
    prefix: jax.Array,
    row_ids: jax.Array,
    rng: jax.Array,
) -> inference_search.SearchResult:
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

    Returns:
      The hypotheses; K = beam_size, or 1 without a beam.
    """
    batch_size, source_length = source_tokens.shape
    beam_size = decode.beam_size if decode.method == "beam" else 1
    max_length = source_length + decode.extra_length
    starts = [
        model.apply(
            {"params": p},
            source_tokens,
            max_length=max_length,
            beam_size=beam_size,
            method="start_decoding",
        )
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

    # A row of padding alone (the batch was not full) ends after one token.
    lengths = jnp.sum(source_tokens != PAD_ID, axis=1)
    limit = jnp.where(lengths == 0, 1, lengths + decode.extra_length)
    options = {
        "batch_size": batch_size,
        "max_length": max_length,
        "length_limit": limit,
        "bos_id": BOS_ID,
        "eos_id": EOS_ID,
        "pad_id": PAD_ID,
        "prefix": prefix,
    }
    if decode.method == "greedy":
        return inference_search.greedy_search(decode_step, caches, **options)
    if decode.method == "sample":
        return inference_search.sample(
            decode_step,
            caches,
            rng=rng,
            row_ids=row_ids,
            temperature=decode.temperature,
            top_k=decode.top_k,
            top_p=decode.top_p,
            **options,
        )
    return inference_search.beam_search(
        decode_step,
        caches,
        beam_size=beam_size,
        length_penalty=decode.length_penalty,
        length_penalty_form=decode.length_penalty_form,
        **options,
    )
