"""How good translations are: sacrebleu on raw text (Post 2018), and a report side by side."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from transformer_jax import storage
from transformer_jax.console import log
from transformer_jax.evaluation.paper_bleu import paper_bleu
from transformer_jax.storage import write_whole


@dataclasses.dataclass(frozen=True)
class Scores:
    """Corpus scores of one set of translations.

    Attributes:
      bleu: sacreBLEU, 0–100.
      bleu_interval: half the width of the 95 % bootstrap interval; 0 when not asked for.
      bleu_signature: what sacrebleu needs to be told to repeat it.
      chrf: chrF2++, 0–100.
      chrf_interval: as for BLEU.
      chrf_signature: as for BLEU.
      paper_bleu: see `transformer_jax.paper_bleu`; None when the target is not German.
      exact_match: share of translations equal to their reference, 0–1.
      sentences: how many.
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
                "27.3 and 28.4 of Vaswani et al. (newstest2014), not with any sacreBLEU"
            )
        return "\n".join(lines)


def corpus_bleu(
    translations: Sequence[str], references: Sequence[str], *, target_language: str
) -> float:
    """Corpus BLEU alone, 0–100: what validation needs."""
    return _bleu(target_language).corpus_score(translations, [references]).score


def bleu_signature(target_language: str) -> str:
    """What sacrebleu needs to be told to repeat `bleu`."""
    metric = _bleu(target_language)
    metric.corpus_score(["a"], [["a"]])  # it has to know the number of references
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
      target_language: for "zh…" BLEU counts characters by sacrebleu's tokenizer for Chinese, for
        "ja" every character; else words, by 13a. For "de…" there is the paper's BLEU too.
      bootstrap: resamples for the 95 % intervals; 0 = none.
    """
    metric_bleu = _bleu(target_language)
    metric_chrf = ChrF(word_order=2)
    b = metric_bleu.corpus_score(translations, [references], n_bootstrap=bootstrap or 1)
    c = metric_chrf.corpus_score(translations, [references], n_bootstrap=bootstrap or 1)
    german = target_language.startswith("de")
    equal = [t == r for t, r in zip(translations, references, strict=True)]
    return Scores(
        bleu=b.score,
        bleu_interval=_half_width(b),
        bleu_signature=str(metric_bleu.get_signature()),
        chrf=c.score,
        chrf_interval=_half_width(c),
        chrf_signature=str(metric_chrf.get_signature()),
        paper_bleu=paper_bleu(translations, references) if german else None,
        exact_match=sum(equal) / max(len(equal), 1),
        sentences=len(equal),
    )


class ChrF(CHRF):
    """sacrebleu's, for poor models too."""

    # The rows of a bootstrap are float32, but an order without a match makes the score a float, and
    # sacrebleu 2.6's statistics.mean refuses the mixture: what a poor model gives is a TypeError.
    def _compute_score_from_stats(self, stats: Any) -> Any:
        return super()._compute_score_from_stats([float(number) for number in stats])


def warn_of_words(references: Sequence[str], target_language: str) -> None:
    """Says so if BLEU will count clauses of Chinese as words."""
    if is_mistaken_for_words(references, target_language):
        log(
            f"the references are Chinese and data.target_language={target_language!r}: BLEU takes "
            "a clause for a word; give --config.data.target_language=zh"
        )


def is_mistaken_for_words(references: Sequence[str], target_language: str) -> bool:
    """Whether most references are Chinese, and `target_language` would cut them at spaces."""
    chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in r) for r in references)
    return _tokenize(target_language) == "13a" and chinese > len(references) / 2


def _tokenize(target_language: str) -> str:
    # 13a, the default, takes a Chinese clause for one word: 95 where 82 is right.
    return {"zh": "zh", "cm": "zh", "ja": "char"}.get(target_language[:2], "13a")


def _bleu(target_language: str) -> BLEU:
    return BLEU(tokenize=_tokenize(target_language))


def _half_width(result: Any) -> float:
    interval = getattr(result, "_ci", None)
    return float(interval) if interval and interval > 0 else 0.0


def write_translations(
    folder: Path,
    scores: Scores,
    sources: Sequence[str],
    translations: Sequence[str],
    references: Sequence[str],
    **about: Any,
) -> dict[str, Any]:
    """Writes translations.tsv, .jsonl (side by side) and scores.json into `folder`.

    Args:
      folder: created if need be.
      scores: of the translations.
      sources: raw text.
      translations: raw text.
      references: raw text.
      **about: what else scores.json should say: the split, the weights.

    Returns:
      What scores.json says.
    """
    storage.make_folder(folder)
    rows = list(zip(sources, translations, references, strict=True))
    names = ("source", "translation", "reference")
    # A tab or a carriage return inside a sentence would shift the columns.
    lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in [names, *rows]]
    write_whole(folder / "translations.tsv", "\n".join(lines) + "\n")
    json_lines = [
        json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in rows
    ]
    write_whole(folder / "translations.jsonl", "\n".join(json_lines) + "\n")
    result = {**about, **dataclasses.asdict(scores)}
    write_whole(folder / "scores.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def side_by_side(
    sources: Sequence[str], translations: Sequence[str], references: Sequence[str]
) -> str:
    """A table for a person: each source, its translation, and the reference where they differ."""
    lines = []
    for source, translation, reference in zip(sources, translations, references, strict=True):
        same = translation == reference
        lines += [f"  {source}", f"    {'=' if same else '≠'} {translation}"]
        lines += [] if same else [f"    reference: {reference}"]
    return "\n".join(lines)
