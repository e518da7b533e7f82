"""How good translations are: sacrebleu on raw text (Post 2018), and a report side by side."""

import collections
import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from transformer_jax import storage
from transformer_jax.config import write_whole
from transformer_jax.paper_bleu import paper_bleu
from transformer_jax.tracking import say


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


def bleu(translations: Sequence[str], references: Sequence[str], *, target_language: str) -> float:
    """Corpus BLEU alone, 0–100: what validation needs."""
    return _bleu(target_language).corpus_score(translations, [references]).score


def bleu_signature(target_language: str) -> str:
    """What sacrebleu needs to be told to repeat `bleu`."""
    metric = _bleu(target_language)
    metric.corpus_score(["a"], [["a"]])  # it has to know the number of references
    return str(metric.get_signature())


def score(
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
        say(
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


@dataclasses.dataclass(frozen=True)
class Degeneracy:
    """Shares of the sentences, 0–1, in which a translation is wrong in a way that shows.

    A perfect translation has 0 in each: what its reference does too is not held against it.

    Attributes:
      empty: the translation is empty, the reference is not.
      loops: the same 1–4 units stand at least 4 times in a row, and do not in the reference. A unit
        is a Chinese or Japanese character, or what stands between such characters and spaces.
      copied: the translation is its source, and the reference is not.
      shared: the translation is also that of a line with another source, less the share of
        references that are; "" is not counted.
    """

    empty: float
    loops: float
    copied: float
    shared: float


def degeneracy(
    sources: Sequence[str], translations: Sequence[str], references: Sequence[str]
) -> Degeneracy:
    """What sort of wrong the translations are; for no sentences, 0 of each."""
    count = max(len(sources), 1)
    rows = [
        (source.strip(), translation.strip(), reference.strip())
        for source, translation, reference in zip(sources, translations, references, strict=True)
    ]
    shared = _shared((s, t) for s, t, _ in rows) - _shared((s, r) for s, _, r in rows)
    return Degeneracy(
        empty=sum(bool(r and not t) for _, t, r in rows) / count,
        loops=sum(_loops(t) and not _loops(r) for _, t, r in rows) / count,
        copied=sum(s == t != r for s, t, r in rows) / count,
        shared=max(shared, 0) / count,
    )


_UNIT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")


def _loops(text: str) -> bool:
    units = _UNIT.findall(text)
    for period in range(1, 5):
        same = 0  # units in a row that equal the unit one period before
        for before, unit in zip(units, units[period:], strict=False):
            same = same + 1 if unit == before else 0
            if same == 3 * period:
                return True
    return False


def _shared(pairs: Iterable[tuple[str, str]]) -> int:
    """How many of the (source, text) pairs have a text that another source has too."""
    pairs = list(pairs)
    sources_of = collections.defaultdict(set)
    for source, text in pairs:
        sources_of[text].add(source)
    return sum(bool(text) and len(sources_of[text]) > 1 for _, text in pairs)


# A share above these is said. Of 73,622 references of Multi30k (en-de) and Tatoeba (zh-en, both
# directions) none loops; a weak model of Tatoeba, with BLEU 11, had 0, 0.1, 0 and 2 %.
_MOST_EMPTY = 0.01
_MOST_LOOPS = 0.01
_MOST_COPIED = 0.02
_MOST_SHARED = 0.1


def warnings(found: Degeneracy) -> list[str]:
    """One line for each share that is too large: which, and what it points to."""
    kinds = [
        (
            found.empty,
            _MOST_EMPTY,
            "are empty: sentences too long to translate, or a model that ends at once",
        ),
        (
            found.loops,
            _MOST_LOOPS,
            "repeat the same words four times and more in a row: a model trained too little, or "
            "sentences unlike the training data",
        ),
        (
            found.copied,
            _MOST_COPIED,
            "copy their source: look for pairs with the same text on both sides in the training "
            "data",
        ),
        (
            found.shared,
            _MOST_SHARED,
            "are those of other sources too, beyond what the references have in common: the model "
            "does not read its source, being trained too little or with sides that do not match",
        ),
    ]
    return [
        f"warning: {100 * share:.1f} % of the translations {what} (usual: at most {100 * most:g} %)"
        for share, most, what in kinds
        if share > most
    ]


def write_report(
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
