"""Corpus scores of translations: sacreBLEU and chrF2++ on raw text (Post 2018), exact match."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from transformer_jax.console import log
from transformer_jax.evaluation.languages import bleu_tokenizer, is_german
from transformer_jax.evaluation.paper_bleu import is_newstest2014, paper_bleu


@dataclasses.dataclass(frozen=True)
class Scores:
    """Corpus scores of one set of translations.

    Attributes:
      bleu: sacreBLEU, 0–100.
      bleu_interval: half the width of the 95 % bootstrap interval; 0 without a bootstrap.
      bleu_signature: sacrebleu's description of how BLEU was computed.
      chrf: chrF2++, 0–100.
      chrf_interval: as for BLEU.
      chrf_signature: as for BLEU.
      paper_bleu: see `evaluation.paper_bleu`; None unless the test set is newstest2014 in German.
      exact_match: share of translations equal to their reference, 0–1.
      sentences: the number of sentences.
    """

    bleu: float
    bleu_interval: float
    bleu_signature: str
    chrf: float
    chrf_interval: float
    chrf_signature: str
    paper_bleu: float | None
    exact_match: float
    sentences: int

    def __str__(self) -> str:
        lines = [
            f"exact match  {100 * self.exact_match:.1f} % of {self.sentences} sentences",
            f"BLEU         {self.bleu:.1f} ± {self.bleu_interval:.1f}   {self.bleu_signature}",
            f"chrF2++      {self.chrf:.1f} ± {self.chrf_interval:.1f}   {self.chrf_signature}",
        ]
        if self.paper_bleu is not None:
            lines.append(
                f"paper BLEU   {self.paper_bleu:.1f}   tokenised, compound-split: compare with the "
                "27.3 and 28.4 of Vaswani et al., not with any sacreBLEU"
            )
        return "\n".join(lines)


def corpus_bleu(
    translations: Sequence[str], references: Sequence[str], *, target_language: str
) -> float:
    """Corpus BLEU alone, 0–100, for validation."""
    return _bleu(target_language).corpus_score(translations, [references]).score


def bleu_signature(target_language: str) -> str:
    """sacrebleu's description of how `corpus_bleu` is computed."""
    metric = _bleu(target_language)
    metric.corpus_score(["a"], [["a"]])  # a signature names the number of references
    return str(metric.get_signature())


def corpus_scores(
    translations: Sequence[str],
    references: Sequence[str],
    *,
    target_language: str,
    bootstrap: int = 1000,
) -> Scores:
    """Scores detokenised translations against detokenised references.

    Args:
      translations: one per sentence.
      references: one per sentence.
      target_language: decides what BLEU counts; see `bleu_tokenizer`.
      bootstrap: number of resamples for the 95 % intervals; 0 = no intervals.
    """
    metric_bleu, metric_chrf = _bleu(target_language), ChrF(word_order=2)
    b = metric_bleu.corpus_score(translations, [references], n_bootstrap=bootstrap or 1)
    c = metric_chrf.corpus_score(translations, [references], n_bootstrap=bootstrap or 1)
    newstest = is_german(target_language) and is_newstest2014(references)
    equal = [t == r for t, r in zip(translations, references, strict=True)]
    return Scores(
        bleu=b.score,
        bleu_interval=_half_width(b),
        bleu_signature=str(metric_bleu.get_signature()),
        chrf=c.score,
        chrf_interval=_half_width(c),
        chrf_signature=str(metric_chrf.get_signature()),
        paper_bleu=_paper_bleu(translations, references) if newstest else None,
        exact_match=sum(equal) / max(len(equal), 1),
        sentences=len(equal),
    )


class ChrF(CHRF):
    """sacrebleu's chrF, with bootstrap intervals for poor models too."""

    # The rows of a bootstrap are float32, but an order without a match makes the score a Python
    # float, and statistics.mean in sacrebleu 2.6 raises a TypeError for the mixture.
    def _compute_score_from_stats(self, stats: Any) -> Any:
        return super()._compute_score_from_stats([float(number) for number in stats])


def _paper_bleu(translations: Sequence[str], references: Sequence[str]) -> float | None:
    try:
        return paper_bleu(translations, references)
    except ModuleNotFoundError as e:
        log(f"no paper BLEU without {e.name}: pip install 'transformer_jax[de]'")
        return None


def _bleu(target_language: str) -> BLEU:
    return BLEU(tokenize=bleu_tokenizer(target_language))


def _half_width(result: Any) -> float:
    interval = getattr(result, "_ci", None)
    return float(interval) if interval and interval > 0 else 0.0
