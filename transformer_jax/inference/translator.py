"""From text to text: sentences → batches of fixed shapes → search → sentences in their order."""

import dataclasses
import functools
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from transformer_jax.config.checks import forbidden_sequences
from transformer_jax.config.options import EOS_ID, DecodeConfig
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers
from transformer_jax.errors import UserError
from transformer_jax.inference.batch_search import BatchSearch, longest, num_beams
from transformer_jax.inference.batching import by_length, padded, source_lengths
from transformer_jax.inference.search_loop import SearchResult
from transformer_jax.inference.sources import Sources
from transformer_jax.model.transformer import Transformer
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

    Compiles a closed set of programs, see `BatchSearch`, each when it is first needed.
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
        self._search = BatchSearch(models, decode, self._devices)

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

        def run(batch: tuple[tuple[int, int], list[int]]) -> tuple[list[int], list]:
            (size, length), chunk = batch
            shape = self._devices.round_up(size), length
            return chunk, self._run(params, [rows[n] for n in chunk], chunk, shape, n_best)

        batches = [*by_length(todo, self._lengths, lambda length: most)]
        yield from self._devices.side_by_side(run, batches)

    def _searchable(self, ids: Sequence[int], begin: Sequence[int]) -> bool:
        """Whether a source with <eos> has pieces, fits, and leaves room after its prefix."""
        room = longest(self.decode, len(ids)) - len(begin)
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
        prefix = padded(begins, (shape[0], longest(self.decode, shape[1])))
        row_ids = np.zeros(shape[0], np.int32)
        row_ids[: len(numbers)] = numbers
        found: list[list[Hypothesis]] = [[] for _ in rows]
        beams = num_beams(self.decode)
        wanted = np.int32(min(n_best or beams, beams))
        for draw in range(n_best or 1 if self.decode.method == "sample" else 1):
            arrays = source_tokens, prefix, row_ids, _key_data(self._seed, draw)
            each = self._search(params, *arrays, n_best=wanted)
            more = hypotheses_of(self.tokenizers.target, each, len(rows), wanted)
            for hypotheses, some in zip(found, more, strict=True):
                hypotheses += some
        return found


@functools.lru_cache
def _key_data(seed: np.uint32, draw: int) -> np.ndarray:
    """What decides a draw of each sentence; the first is that of a single sample."""
    rng = jax.random.key(seed)
    return np.asarray(jax.random.key_data(jax.random.fold_in(rng, draw) if draw else rng))


def hypotheses_of(
    tokenizer: Tokenizer, found: SearchResult, rows: int, n_best: int | None = None
) -> list[list[Hypothesis]]:
    """The n best of each of the first rows of a batch, best first, as text; None = all."""
    hypotheses = []
    for row, score in enumerate(found.score[:rows]):
        kept = np.flatnonzero(np.isfinite(score))[:n_best]
        texts = tokenizer.decode(found.tokens[row, kept])
        hypotheses.append(
            [_hypothesis(found, (row, k), text) for k, text in zip(kept, texts, strict=True)]
        )
    return hypotheses


def _hypothesis(found: SearchResult, place: tuple[int, int], text: str) -> Hypothesis:
    length = found.length[place]
    return Hypothesis(
        # <0x0A> is a piece, and a line in must give a line out.
        re.sub(r"[\r\n]", " ", text),
        float(found.score[place]),
        float(found.log_prob[place]),
        tuple(found.tokens[place][:length].tolist()),
        tuple(found.token_log_probs[place][:length].tolist()),
    )


def _check_ids(decode: DecodeConfig, vocab_size: int) -> None:
    sequences = {"decode.forbidden_ids": forbidden_sequences(decode)}
    for name, ids in (sequences | {"decode.first_id": ((decode.first_id,),)}).items():
        if (largest := max((max(row) for row in ids), default=0)) >= vocab_size:
            raise UserError(f"{name} has id {largest}, outside of a vocabulary of {vocab_size}")
