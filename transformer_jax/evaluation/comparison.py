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
from transformer_jax.evaluation.translations import COLUMNS, JSON_FILE, SCORES_FILE

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
    and the sentences whose chrF2++ changed most. The resamples are the same in every call.

    Args:
      workdir: a workdir that was evaluated on `split` (--mode=evaluate).
      other: another workdir, evaluated on the same sentences.
      split: the name of a folder in evaluation/.
      resamples: the number of bootstrap resamples.

    Raises:
      UserError: if one has not been evaluated, or if their sentences or the tokenizers of their
        BLEU differ.
    """
    a, b = _read_both(workdir, other, split)
    blocks = _significance(a, b, split, resamples)
    differing = _differences(a.options, b.options)
    title = "options that differ:" if differing else "no option differs"
    return "\n\n".join([*blocks, "\n".join([title, *differing]), *_changes(a, b)])


def significance(workdir: Path, other: Path, *, split: str, resamples: int = 1000) -> str:
    """The first part of `compare`: both scores, with the paired bootstrap test."""
    a, b = _read_both(workdir, other, split)
    return "\n\n".join(_significance(a, b, split, resamples))


def _significance(a: _Evaluation, b: _Evaluation, split: str, resamples: int) -> list[str]:
    title = f"{split}, {len(a.sources):,} sentences\nA  {a.workdir}\nB  {b.workdir}"
    if a.translations == b.translations:
        return [title, "A and B translate every sentence alike: there is nothing to test"]
    return [title, _paired_test(a, b, resamples)]


def _read_both(workdir: Path, other: Path, split: str) -> tuple[_Evaluation, _Evaluation]:
    a, b = _read(workdir, split), _read(other, split)
    _refuse_different_sentences(a, b, split)
    if a.tokenizer != b.tokenizer:
        raise UserError(
            f"BLEU uses the tokenizer {a.tokenizer} in {workdir} and {b.tokenizer} in {other}: "
            "evaluate both with the same --config.data.target_language"
        )
    return a, b


def _read(workdir: Path, split: str) -> _Evaluation:
    config = load_config(workdir / CONFIG_FILE)
    folder = workdir / "evaluation" / split
    try:
        scores = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))
        text = (folder / JSON_FILE).read_text(encoding="utf-8")
        # Not splitlines(), which would also split at a U+2028 inside a sentence.
        rows = [json.loads(line) for line in text.split("\n")[:-1]]
        columns = [[row[name] for row in rows] for name in COLUMNS]
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


def _refuse_different_sentences(a: _Evaluation, b: _Evaluation, split: str) -> None:
    again = f"evaluate both on the same {split} set"
    if len(a.sources) != len(b.sources):
        raise UserError(
            f"{len(a.sources):,} sentences in {a.workdir} and {len(b.sources):,} in {b.workdir}: "
            f"{again}"
        )
    for kind in ("source", "reference"):
        in_a, in_b = getattr(a, kind + "s"), getattr(b, kind + "s")
        for number, (x, y) in enumerate(zip(in_a, in_b, strict=True), start=1):
            if x != y:
                raise UserError(
                    f"the {kind} of sentence {number} is {x!r} in {a.workdir} and {y!r} in "
                    f"{b.workdir}: {again}"
                )


def _paired_test(a: _Evaluation, b: _Evaluation, resamples: int) -> str:
    """A table: each metric of A and of B with 95 % intervals, their difference, and p."""
    logging.getLogger("sacrebleu").setLevel(logging.WARNING)  # it logs each step
    metrics = {"BLEU": BLEU(tokenize=a.tokenizer), "chrF2++": ChrF(word_order=2)}
    systems = [("A", a.translations), ("B", b.translations)]
    test = PairedTest(systems, metrics, [a.references], test_type="bs", n_samples=resamples)
    signatures, results = test()
    lines = [f"{'':10}{'A':14}{'B':14}{'B - A':9}p"]
    for name in metrics:
        in_a, in_b = results[name]
        cells = [f"{result.score:.1f} ± {result.ci:.1f}" for result in (in_a, in_b)]
        difference = f"{in_b.score - in_a.score:+.1f}"
        # For equal scores sacrebleu returns the smallest possible p.
        p = f"{in_b.p_value:.3f}" if in_a.score != in_b.score else "-"
        lines += [f"{name:10}{cells[0]:14}{cells[1]:14}{difference:9}{p:8}{signatures[name]}"]
    lines += ["p: the probability of a difference at least this large if A and B were equally good"]
    if len(a.sources) < _FEW:
        lines += [f"{len(a.sources)} sentences are too few to rely on p and the intervals"]
    return "\n".join(lines)


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


def _changes(a: _Evaluation, b: _Evaluation) -> list[str]:
    """The sentences that improved and those that worsened, the largest changes first."""
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
            title = f"{word} most from A to B, by chrF2++ of the sentence ({len(rows):,} {word}):"
            blocks += ["\n".join([title, *(_show(a, b, *row) for row in rows[:_SHOWN])])]
    return blocks


def _chrf(translation: str, reference: str) -> float:
    return ChrF(word_order=2).sentence_score(translation, [reference]).score


def _show(a: _Evaluation, b: _Evaluation, change: float, n: int) -> str:
    return (
        f"  {change:+.1f}  {a.sources[n]}\n    A: {a.translations[n]}\n    B: {b.translations[n]}\n"
        f"    reference: {a.references[n]}"
    )
