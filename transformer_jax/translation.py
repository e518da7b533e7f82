"""From text to text: sentences → batches of fixed shapes → search → sentences, in their order."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax import decoding
from transformer_jax.config import BOS_ID, EOS_ID, PAD_ID, DecodeConfig, ModelConfig, UserError
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.model import Transformer

# Source lengths that searches are compiled for. A longer sentence is not translated.
SOURCE_LENGTHS = (16, 32, 64, 128, 256, 512, 1024)


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One translation.

    Attributes:
      text: detokenised.
      score: what the search ranks by: the log-probability over the length penalty.
      log_prob: natural logarithm of the probability of the pieces and their <eos>.
    """

    text: str
    score: float
    log_prob: float


def first_best(hypotheses: Iterable[Sequence[Hypothesis]]) -> list[str]:
    """The best text of each sentence; "" where there is none."""
    return [h[0].text if h else "" for h in hypotheses]


class Translator:
    """Translates sentences with one model; compiles once for each shape it meets."""

    def __init__(
        self, model: Transformer, tokenizers: Tokenizers, decode: DecodeConfig, *, seed: int = 0
    ) -> None:
        """`seed` decides what is drawn when `decode.method` is "sample".

        Raises:
          UserError: if learned positions do not suffice for one source token and extra_length.
        """
        self.tokenizers, self.decode = tokenizers, decode
        self._lengths = _source_lengths(model.config, decode)
        self._search = jax.jit(partial(search, model, decode))
        self._rng = jax.random.key(seed)

    def translate(
        self,
        params: Any,
        sentences: Sequence[str],
        *,
        progress: Callable[[int], None] = lambda count: None,
    ) -> list[list[Hypothesis]]:
        """The n best translations of each sentence, best first, in the order of `sentences`.

        A blank sentence has one blank translation; a sentence of more pieces than the largest
        shape has none.

        Args:
          params: the model's parameters.
          sentences: raw text.
          progress: told how many more sentences are done, now and then.
        """
        results: list[list[Hypothesis]] = [[] for _ in sentences]
        ids = [[*pieces, EOS_ID] for pieces in self.tokenizers.source.encode(sentences)]
        for number, text in enumerate(sentences):
            if not text.strip():
                results[number] = [Hypothesis("", 0.0, 0.0)]
        todo = [n for n, r in enumerate(results) if not r and len(ids[n]) <= self._lengths[-1]]
        # Two batch sizes, whatever is asked: one sentence (a prompt), or a full batch.
        rows = 1 if len(todo) == 1 else self.decode.batch_size
        for length, chunk in self._chunks(todo, ids):
            found = self._run(params, [ids[n] for n in chunk], chunk, (rows, length))
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
        self, params: Any, sources: list[list[int]], numbers: list[int], shape: tuple[int, int]
    ) -> list[list[Hypothesis]]:
        source_tokens = np.full(shape, PAD_ID, np.int32)
        for row, source in enumerate(sources):
            source_tokens[row, : len(source)] = source
        row_ids = np.zeros(shape[0], np.int32)
        row_ids[: len(numbers)] = numbers
        found = jax.device_get(self._search(params, source_tokens, row_ids, self._rng))
        return [self._hypotheses(found, row) for row in range(len(sources))]

    def _hypotheses(self, found: decoding.SearchResult, row: int) -> list[Hypothesis]:
        kept = [k for k in range(found.score.shape[1]) if np.isfinite(found.score[row, k])]
        # <0x0A> is a piece, and a line in must give a line out.
        decoded = self.tokenizers.target.decode(found.tokens[row, kept])
        texts = [re.sub(r"[\r\n]", " ", text) for text in decoded]
        numbers = zip(found.score[row, kept], found.log_prob[row, kept], strict=True)
        return [Hypothesis(t, float(s), float(p)) for t, (s, p) in zip(texts, numbers, strict=True)]


def _source_lengths(model: ModelConfig, decode: DecodeConfig) -> tuple[int, ...]:
    if model.positions != "learned":
        return SOURCE_LENGTHS
    limit = model.max_positions - decode.extra_length
    if limit < 1:
        raise UserError(
            f"decode.extra_length={decode.extra_length} leaves no source token of "
            f"model.max_positions={model.max_positions}: lower it"
        )
    shorter = tuple(s for s in SOURCE_LENGTHS if s < limit)
    return shorter if shorter == SOURCE_LENGTHS else (*shorter, limit)


def search(
    model: Transformer,
    decode: DecodeConfig,
    params: Any,
    source_tokens: jax.Array,
    row_ids: jax.Array,
    rng: jax.Array,
) -> decoding.SearchResult:
    """Encodes a batch and searches its translations, in one program.

    Args:
      model: the model.
      decode: the method and its options.
      params: the model's parameters.
      source_tokens: int32 [B, S], each sentence with its <eos>, padded; a row of padding alone
        yields a translation of nothing.
      row_ids: int32 [B], numbers that decide what each row draws when sampling.
      rng: PRNG key for sampling.

    Returns:
      The hypotheses; K = beam_size, or 1 without a beam.
    """
    batch_size, source_length = source_tokens.shape
    beam_size = decode.beam_size if decode.method == "beam" else 1
    max_length = source_length + decode.extra_length
    memory, cache = model.apply(
        {"params": params},
        source_tokens,
        max_length=max_length,
        beam_size=beam_size,
        method="start_decoding",
    )

    def decode_step(cache: Any, tokens: jax.Array) -> tuple[jax.Array, Any]:
        return model.apply({"params": params}, memory, cache, tokens, method="decode_step")

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
    }
    if decode.method == "greedy":
        return decoding.greedy_search(decode_step, cache, **options)
    if decode.method == "sample":
        return decoding.sample(
            decode_step,
            cache,
            rng=rng,
            row_ids=row_ids,
            temperature=decode.temperature,
            top_k=decode.top_k,
            top_p=decode.top_p,
            **options,
        )
    return decoding.beam_search(
        decode_step,
        cache,
        beam_size=beam_size,
        length_penalty=decode.length_penalty,
        length_penalty_form=decode.length_penalty_form,
        **options,
    )
