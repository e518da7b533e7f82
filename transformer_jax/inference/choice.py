"""Which candidate of a sentence is its translation: the rules beside the search's own score."""

import collections
import dataclasses
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax.config.options import Config, DataConfig
from transformer_jax.data.language_codes import without_code
from transformer_jax.errors import UserError
from transformer_jax.inference.scorer import TokenScores
from transformer_jax.inference.translator import Hypothesis, Translator

Rows = Sequence[Sequence[Hypothesis]]  # the candidates of each sentence
Rank = Callable[[Sequence[str], Rows], list[list[Hypothesis]]]  # of sources and their candidates
Score = Callable[[Sequence[str], Sequence[str]], Sequence[TokenScores | None]]


class Chooser(Translator):
    """A translator that ranks what its search finds once more."""

    def __init__(self, *args: Any, rank: Rank, **options: Any) -> None:
        """Takes the arguments of `Translator`, and the rule."""
        super().__init__(*args, **options)
        self._rank = rank

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
        """As of `Translator`, but finds all candidates, however few are asked for."""
        candidates = self.decode.candidates if self.decode.method == "sample" else None
        given = {"prefixes": prefixes, "n_best": candidates}
        given |= {"done": done, "first": first}
        for numbers, rows in super().as_found(params, sentences, **given):
            yield numbers, self._rank([sentences[n - first] for n in numbers], rows)


def rule(config: Config, reverse: Score | None) -> Rank | None:
    """The rule that `decode.choose` names; None = the search's own order.

    Args:
      config: of the model that finds the candidates.
      reverse: scores (translations, sources) by a model of the other direction; None = there is
        no such model.

    Raises:
      UserError: if the rule needs such a model.
    """
    decode = config.decode
    if decode.choose == "model":
        return None
    if decode.choose == "mbr":
        # sacrebleu takes longer to import than a short sentence to translate.
        from transformer_jax.evaluation.utility import pairwise_bleu, pairwise_chrf

        language = config.data.target_language
        bleu = partial(pairwise_bleu, target_language=language)
        utility = bleu if decode.utility == "bleu" else pairwise_chrf
        find = partial(by_bayes_risk, utility=utility, sampled=decode.method == "sample")
        return lambda sources, rows: [find(row) for row in rows]
    if reverse is None:
        raise UserError(
            "decode.choose='reverse' needs a model of the other direction: give its workdir, "
            "--reverse=DIR"
        )
    return partial(by_reverse_model, score=reverse, weight=decode.reverse_weight)


def by_bayes_risk(
    candidates: Sequence[Hypothesis],
    *,
    utility: Callable[[Sequence[str]], np.ndarray],
    sampled: bool,
) -> list[Hypothesis]:
    """The candidates of a sentence by their expected utility, the least risk (Kumar & Byrne 2004).

    The expectation is over the candidates themselves. Samples weigh alike (Eikema & Aziz 2020),
    and what a beam found by its probability; equal texts are one candidate, of all their weight.

    Args:
      candidates: in the order of the search, which decides between equals.
      utility: returns [N, N], how good each of N texts is (row) if another is right (column).
      sampled: whether they are samples.

    Returns:
      One of each text; `score` is the expected utility.
    """
    if not candidates:
        return []
    log_weights = np.array([0.0 if sampled else h.log_prob for h in candidates])
    weights = np.exp(log_weights - log_weights.max())
    total: dict[str, float] = collections.defaultdict(float)
    for candidate, weight in zip(candidates, weights / weights.sum(), strict=True):
        total[candidate.text] += weight
    expected = utility(list(total)) @ np.array(list(total.values()))
    return _ranked(_distinct(candidates), expected)


def by_reverse_model(
    sources: Sequence[str], rows: Rows, *, score: Score, weight: float
) -> list[list[Hypothesis]]:
    """The candidates of each sentence by log p(y|x) / |y| + λ log p(x|y) / |x| (Yee et al. 2019).

    Args:
      sources: x, raw text; the code of a language that begins one is no part of x.
      rows: the candidates y of each.
      score: returns log p(x|y) of many (y, x), None for a pair that is too long.
      weight: λ.

    Returns:
      One of each text; `score` is the sum, in nats per piece. Those that are too long for `score`
      come last.
    """
    rows = [_distinct(row) for row in rows]
    plain = [without_code(source) for source in sources]
    pairs = [(h.text, x) for x, row in zip(plain, rows, strict=True) for h in row]
    found = iter(score([y for y, _ in pairs], [x for _, x in pairs]))
    ranked = []
    for row in rows:
        scores = []
        for h in row:
            backward = next(found)
            forward = h.log_prob / max(len(h.ids), 1)
            mean = backward.log_prob / len(backward.log_probs) if backward else None
            scores.append(-np.inf if mean is None else forward + weight * mean)
        ranked.append(_ranked(row, scores))
    return ranked


def _distinct(candidates: Iterable[Hypothesis]) -> list[Hypothesis]:
    """The first candidate of each text."""
    first: dict[str, Hypothesis] = {}
    for candidate in candidates:
        first.setdefault(candidate.text, candidate)
    return list(first.values())


def _ranked(candidates: Sequence[Hypothesis], scores: Iterable[float]) -> list[Hypothesis]:
    scored = [
        dataclasses.replace(h, score=float(score))
        for h, score in zip(candidates, scores, strict=True)
    ]
    return sorted(scored, key=lambda h: -h.score)


def check_reverse(config: Config, workdir: Path, reverse: Config, folder: Path) -> None:
    """Checks that the model in `folder`, of the options `reverse`, can rerank that of `workdir`.

    Raises:
      UserError: if it is not wanted, or states other languages than the first one's, exchanged.
    """
    if config.decode.choose != "reverse":
        raise UserError(
            f"--reverse={folder} is for decode.choose='reverse', and it is "
            f"{config.decode.choose!r}: set --config.decode.choose=reverse"
        )
    ours, theirs = _languages(config.data), _languages(reverse.data)[::-1]
    if any(a and b and a != b for a, b in zip(ours, theirs, strict=True)):
        raise UserError(
            f"{folder} translates {_direction(reverse.data)}, and {workdir} translates "
            f"{_direction(config.data)}: --reverse needs a model of the other direction"
        )


def _languages(data: DataConfig) -> list[str | None]:
    """The codes of source and target, without country and script; None = not known."""
    from transformer_jax.evaluation.languages import language_tag  # langcodes, likewise

    tags = [language_tag(name) for name in (data.source_language, data.target_language)]
    return [tag and tag.partition("-")[0] for tag in tags]


def _direction(data: DataConfig) -> str:
    return f"{data.source_language} → {data.target_language}"
