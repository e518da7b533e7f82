"""Compares two evaluated workdirs: whether one is better, and how they differ."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from transformer_jax.config.files import CONFIG_FILE, load_config
from transformer_jax.config.options import flatten
from transformer_jax.errors import UserError
from transformer_jax.evaluation.scores import ChrF, Scores
from transformer_jax.evaluation.translations import (
    SCORES_FILE,
    folder_of,
    name_across,
    read_translations,
)

_SHOWN = 5  # sentences that improved, and as many that worsened
_FEW = 100  # sentences; with fewer, the resamples hardly differ from one another
# Fields of scores.json that describe the translations; the others describe how they were made.
_MEASURED = {f.name for f in dataclasses.fields(Scores)} | {"split", "degeneracy", "bins"}


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The evaluation of one split in a workdir.

    Attributes:
      workdir: the evaluated workdir.
      options: the options of the experiment, and how it was evaluated: weights, steps.
      tokenizer: the sacrebleu tokenizer of its BLEU.
      sources: raw text.
      translations: one per source.
      references: one per source.
    """

    workdir: Path
    options: dict[str, Any]
    tokenizer: str
    sources: list[str]
    translations: list[str]
    references: list[str]


def compare(workdir: Path, other: Path, *, split: str, resamples: int = 1000) -> str:
    """Compares the translations of A, `workdir`, with those of B, `other`.

    Returns the scores of both with a paired bootstrap test (Koehn 2004), the options that differ,
    and the sentences whose chrF2++ changed most. The resamples are the same in every call. If the
    two have different sentences, as before and after fine-tuning, each must have been evaluated on
    those of the other, too (--sentences_of): the table then shows both texts.

    Args:
      workdir: a workdir that was evaluated on `split` (--mode=evaluate).
      other: another workdir, evaluated on the same sentences.
      split: the name of a folder in evaluation/.
      resamples: the number of bootstrap resamples.

    Raises:
      UserError: if one has not been evaluated, or if their sentences or the tokenizers of their
        BLEU differ.
    """
    texts = _texts(workdir, other, split)
    a, b = next(iter(texts.values()))
    differing = _differences(a.options, b.options)
    title = "options that differ:" if differing else "no option differs"
    changes = [
        block
        for name, pair in texts.items()
        for block in _changes(*pair, f"{name}: " if len(texts) > 1 else "")
    ]
    table = _significance(texts, resamples)
    return "\n\n".join([*table, "\n".join([title, *differing]), *changes])


def significance(workdir: Path, other: Path, *, split: str, resamples: int = 1000) -> str:
    """The first part of `compare`: both scores, with the paired bootstrap test."""
    return "\n\n".join(_significance(_texts(workdir, other, split), resamples))


_Texts = dict[str, tuple[_Evaluation, _Evaluation]]  # A and B on each text, by its name


def _texts(workdir: Path, other: Path, split: str) -> _Texts:
    """What both were evaluated on: one text, or the text of each."""
    a, b = _read(workdir, split), _read(other, split)
    different = _different_sentences(a, b)
    if not different:
        texts = {split: (a, b)}
    else:
        across = [(other, workdir), (workdir, other)]
        missing = [
            f"python launch.py --mode=evaluate --workdir={one} --split={split} "
            f"--sentences_of={owner}"
            for one, owner in across
            if not folder_of(one, name_across(split, owner)).exists()
        ]
        if missing:
            raise UserError(
                f"{different}: evaluate both on the same {split} set, or each on that of the "
                f"other, too: {'; '.join(missing)}"
            )
        b_there, a_there = (_read(one, name_across(split, owner)) for one, owner in across)
        texts = {f"{split} of A": (a, b_there), f"{split} of B": (a_there, b)}
    for x, y in texts.values():
        if again := _different_sentences(x, y):
            raise UserError(f"{again}: evaluate both on these sentences again")
        if x.tokenizer != y.tokenizer:
            raise UserError(
                f"BLEU uses the tokenizer {x.tokenizer} in {workdir} and {y.tokenizer} in {other}: "
                "evaluate both with the same --config.data.target_language"
            )
    return texts


def _significance(texts: _Texts, resamples: int) -> list[str]:
    (a, b), *_ = texts.values()
    counts = "; ".join(f"{name}, {len(a.sources):,} sentences" for name, (a, _) in texts.items())
    title = f"{counts}\nA  {a.workdir}\nB  {b.workdir}"
    alike = [name for name, (a, b) in texts.items() if a.translations == b.translations]
    tested = {name: pair for name, pair in texts.items() if name not in alike}
    where = "" if len(texts) == 1 else f" of {' and '.join(alike)}"
    blocks = [title, _table(tested, len(texts) > 1, resamples)] if tested else [title]
    if alike:
        same = f"A and B translate every sentence{where} alike: there is nothing to test"
        blocks.append(same)
    return blocks


def _read(workdir: Path, split: str) -> _Evaluation:
    config = load_config(workdir / CONFIG_FILE)
    folder = folder_of(workdir, split)
    try:
        scores = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
        *columns, _ = read_translations(folder)
        # Not from the configuration: --mode=evaluate may have set another target language.
        signature = dict(part.split(":", 1) for part in scores["bleu_signature"].split("|"))
        tokenizer = signature["tok"]
    except FileNotFoundError:
        name, ensemble, _ = split.partition("-ensemble")
        raise UserError(
            f"{workdir} has not been evaluated on {split}: python launch.py --mode=evaluate "
            f"--workdir={workdir} --split={name}" + (" --ensemble=…" if ensemble else "")
        ) from None
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{folder} is damaged ({e!r}): evaluate {workdir} again") from None
    about = {name: value for name, value in scores.items() if name not in _MEASURED}
    # The decode options of the evaluation take precedence over those of config.json.
    decode = {f"decode.{name}": value for name, value in about.pop("decode", {}).items()}
    return _Evaluation(workdir, flatten(config) | about | decode, tokenizer, *columns)


def _different_sentences(a: _Evaluation, b: _Evaluation) -> str:
    """The first difference between what the two were evaluated on; "" = none."""
    if len(a.sources) != len(b.sources):
        return f"{len(a.sources):,} sentences in {a.workdir} and {len(b.sources):,} in {b.workdir}"
    for kind in ("source", "reference"):
        in_a, in_b = getattr(a, kind + "s"), getattr(b, kind + "s")
        for number, (x, y) in enumerate(zip(in_a, in_b, strict=True), start=1):
            if x != y:
                where = f"{x!r} in {a.workdir} and {y!r} in {b.workdir}"
                return f"the {kind} of sentence {number} is {where}"
    return ""


def _table(texts: _Texts, named: bool, resamples: int) -> str:
    """Each metric of A and of B on each text with 95 % intervals, their difference, and p.

    With `named`, a row begins with the name of its text.
    """
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it logs each step
    width = max(map(len, texts)) + 2 if named else 0
    lines = [f"{'':{width}}{'':10}{'A':14}{'B':14}{'B - A':9}p"]
    for name, (a, b) in texts.items():
        lines += [f"{name if named else '':{width}}{row}" for row in _rows(a, b, resamples)]
    lines += ["p: the probability of a difference at least this large if A and B were equally good"]
    few = [len(a.sources) for a, _ in texts.values() if len(a.sources) < _FEW]
    return "\n".join(
        [*lines, *(f"{n} sentences are too few to rely on p and the intervals" for n in few)]
    )


def _rows(a: _Evaluation, b: _Evaluation, resamples: int) -> list[str]:
    metrics = {"BLEU": BLEU(tokenize=a.tokenizer), "chrF2++": ChrF(word_order=2)}
    systems = [("A", a.translations), ("B", b.translations)]
    test = PairedTest(systems, metrics, [a.references], test_type="bs", n_samples=resamples)
    signatures, results = test()
    lines = []
    for name in metrics:
        in_a, in_b = results[name]
        cells = [f"{result.score:.1f} ± {result.ci:.1f}" for result in (in_a, in_b)]
        difference = f"{in_b.score - in_a.score:+.1f}"
        # For equal scores sacrebleu returns the smallest possible p.
        p = f"{in_b.p_value:.3f}" if in_a.score != in_b.score else "-"
        lines += [f"{name:10}{cells[0]:14}{cells[1]:14}{difference:9}{p:8}{signatures[name]}"]
    return lines


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """["  model.d_ff: 512 in A, 1024 in B", …], without name and demo, which do not matter."""
    names = [name for name in a | b if name not in ("name", "demo")]
    return [
        f"  {name}: {_value(a, name)} in A, {_value(b, name)} in B"
        for name in names
        if _value(a, name) != _value(b, name)
    ]


def _value(options: dict[str, Any], name: str) -> str:
    return repr(options[name]) if name in options else "none"


def _changes(a: _Evaluation, b: _Evaluation, text: str) -> list[str]:
    """The sentences that improved and those that worsened, the largest changes first.

    `text` is the beginning of each title.
    """
    changes = [
        (_chrf(b.translations[n], a.references[n]) - _chrf(a.translations[n], a.references[n]), n)
        for n in range(len(a.sources))
        if a.translations[n] != b.translations[n]
    ]
    improved = sorted((row for row in changes if row[0] > 0), key=lambda row: -row[0])
    worsened = sorted((row for row in changes if row[0] < 0), key=lambda row: row[0])
    blocks = []
    for word, rows in (("improved", improved), ("worsened", worsened)):
        if rows:
            counted = f"({len(rows):,} {word})"
            title = f"{text}{word} most from A to B, by chrF2++ of the sentence {counted}:"
            blocks += ["\n".join([title, *(_show(a, b, *row) for row in rows[:_SHOWN])])]
    return blocks


def _chrf(translation: str, reference: str) -> float:
    return ChrF(word_order=2).sentence_score(translation, [reference]).score


def _show(a: _Evaluation, b: _Evaluation, change: float, n: int) -> str:
    return (
        f"  {change:+.1f}  {a.sources[n]}\n    A: {a.translations[n]}\n    B: {b.translations[n]}\n"
        f"    reference: {a.references[n]}"
    )
