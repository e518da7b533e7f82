"""How probable given translations are: teacher-forced log-probabilities, in nats."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.functional import probabilities
from transformer_jax.inference.batching import by_length, padded, source_lengths
from transformer_jax.inference.sources import Sources
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.devices import DataParallel, one_device

# Positions in one batch, at most: what bounds the memory of its logits, [B, T, V] in float32.
_BATCH_POSITIONS = 4096


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """The log-probability of each piece of one translation, its <eos> included, in nats."""

    pieces: tuple[str, ...]
    log_probs: tuple[float, ...]

    @property
    def log_prob(self) -> float:
        """Of the whole translation: the sum."""
        return math.fsum(self.log_probs)

    @property
    def perplexity(self) -> float:
        """Per piece: exp of the mean of -log_probs. Not comparable between vocabularies."""
        return perplexity(self.log_prob, len(self.log_probs))


def perplexity(log_prob: float, tokens: int) -> float:
    """exp(-log_prob / tokens); infinite where that is too large for a number."""
    try:
        return math.exp(-log_prob / tokens)
    except OverflowError:
        return math.inf


class Scorer:
    """Scores translations, by the mean of the models' probabilities if there are several."""

    def __init__(
        self,
        models: Sequence[Transformer],
        tokenizers: Tokenizers,
        *,
        target_token: str = "",
        devices: DataParallel | None = None,
    ) -> None:
        """`models` share the tokenizers; `devices` share the pairs, None = the first.

        `target_token` is for sources that begin with no code of a language; see `Sources`.
        """
        self.tokenizers = tokenizers
        self.sources = Sources(tokenizers.source, target_token)
        self.lengths = source_lengths([model.config for model in models], extra_length=0)
        self._devices = devices or one_device()
        self._log_probs = self._devices.compile(partial(target_log_probs, tuple(models)))

    def score(
        self,
        params: Sequence[Any],
        pairs: Sequence[tuple[str, str]],
        *,
        progress: Callable[[int], None] = lambda count: None,
    ) -> list[TokenScores | None]:
        """Scores (source, translation) texts; None for a pair longer than the largest shape.

        A text has the pieces that the tokenizer cuts it into. A search may have found the same text
        in other pieces, whose log-probability is another: `score_ids` scores those.
        """
        sources, targets = zip(*pairs, strict=True) if pairs else ((), ())
        rows = zip(
            self.sources.encode(sources), self.tokenizers.target.encode(targets), strict=True
        )
        ids = [(source, [*target, EOS_ID]) for source, target in rows]
        return self.score_ids(params, ids, progress=progress)

    def score_ids(
        self,
        params: Sequence[Any],
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        progress: Callable[[int], None] = lambda count: None,
    ) -> list[TokenScores | None]:
        """As `score`, of piece ids: the source's with <eos>, the translation's with or without."""
        scores: list[TokenScores | None] = [None] * len(pairs)
        sizes = {n: max(map(len, pair)) for n, pair in enumerate(pairs)}
        todo = {n: size for n, size in sizes.items() if size <= self.lengths[-1]}
        for (rows, length), chunk in by_length(todo, self.lengths, self._batch_rows):
            shape = self._devices.round_up(rows), length
            sides = [padded([pairs[n][i] for n in chunk], shape) for i in (0, 1)]
            found = jax.device_get(self._log_probs(tuple(params), *map(self._devices.put, sides)))
            for number, log_probs in zip(chunk, found[: len(chunk)], strict=True):
                scores[number] = self._named(pairs[number][1], log_probs)
            progress(len(chunk))
        return scores

    def _batch_rows(self, length: int) -> int:
        return max(_BATCH_POSITIONS // length, 1)

    def _named(self, ids: Sequence[int], log_probs: np.ndarray) -> TokenScores:
        pieces = tuple(self.tokenizers.target.vocabulary[i] for i in ids)
        return TokenScores(pieces, tuple(log_probs[: len(ids)].tolist()))


def target_log_probs(
    models: Sequence[Transformer],
    params: Sequence[Any],
    source_tokens: jax.Array,
    target_tokens: jax.Array,
) -> jax.Array:
    """The log-probability of each target token given the source and the tokens before it.

    Args:
      models: one, or several whose probabilities are averaged.
      params: each model's parameters.
      source_tokens: int32 [B, S], each sentence with its <eos>, padded.
      target_tokens: int32 [B, T], the same.

    Returns:
      float32 [B, T], nats; 0 at padding.
    """
    decoder_input = jnp.pad(target_tokens[:, :-1], ((0, 0), (1, 0)), constant_values=BOS_ID)
    logits = [
        model.apply({"params": p}, source_tokens, decoder_input)
        for model, p in zip(models, params, strict=True)
    ]
    log_probs = probabilities.ensemble(logits)
    return probabilities.token_log_probs(log_probs, target_tokens, pad_id=PAD_ID)
