"""The sections of a report that are tables: from runs to blocks of a document."""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from transformer_jax.config.options import Config, flatten
from transformer_jax.report import runs
from transformer_jax.report.document import Block, Heading, Paragraph, Table
from transformer_jax.report.formats import NONE, clock, mean, number
from transformer_jax.report.runs import Group, Run

Paper = Callable[[str], dict[str, Any] | None]


# ------------------------------------------------------------------------------------- the points
def points(groups: Sequence[Group]) -> list[Block]:
    """The table of a sweep's groups, and the points that failed."""
    about = (
        "The last validation of each, or that of the average that validation chose "
        "(train.choose_average): loss in nats per token without label smoothing, greedy BLEU. "
        "Points that differ only in the seed share a row: the mean over n seeds, ± half of its "
        "95 % interval by Student's t with n − 1 degrees of freedom. One seed has no interval. "
        "Parameters and FLOPs (what the model needs for all steps) are those of one run; time is "
        "its mean wall time."
    )
    header = ["point", "seeds", "validation loss", "BLEU", "parameters", "FLOPs", "time", "state"]
    rows = [_point(group) for group in runs.ranking(groups)]
    blocks: list[Block] = [Heading("Points"), Paragraph(about), Table(header, rows, range(1, 7))]
    listed = runs.all_runs(groups)
    for name, warning in (
        ("tokenizer", "vocabularies: their losses do not compare, and BLEU ranks them"),
        ("validation_text", "validation sets: neither losses nor BLEU compare"),
    ):
        if runs.differ(listed, name):
            blocks.append(Paragraph(f"The points have different {warning}.", True))
    counted = [run for group in groups for run in group.finished]
    repeated = [r.name for r in listed if r.state == "finished" and r not in counted]
    if repeated:
        text = f"Not counted, because another point has the same seed: {', '.join(repeated)}."
        blocks.append(Paragraph(text, True))
    failed = [[run.name, run.reason or NONE] for run in listed if run.state == "failed"]
    if failed:
        blocks += [Paragraph("Points that failed:"), Table(["point", "reason"], failed)]
    return blocks


def _point(group: Group) -> list[str]:
    states = [run.state for run in group.runs]
    n = len(group.values("loss"))
    seconds = [run.seconds for run in group.runs if run.seconds is not None]
    return [
        group.name,
        f"{n} of {len(states)}" if n < len(states) else f"{n}",
        mean(group.values("loss"), 4),
        mean(group.values("bleu"), 2),
        number(group.card.get("parameters"), ",d"),
        number(group.card.get("flops"), ".2e"),
        clock(_mean(seconds)),
        "" if set(states) == {"finished"} else ", ".join(sorted(set(states))),
    ]


# -------------------------------------------------------------------------------------- the paper
def paper(groups: Sequence[Group], printed: Paper | None) -> list[Block]:
    """Measured numbers beside those that a paper printed, for the groups that are rows of it."""
    rows = []
    for group in groups if printed else ():
        row = printed(group.runs[0].name)
        if row is not None:
            rows.append(_compared(group, row))
    if not rows:
        return []
    measured = ("perplexity", "BLEU", "test BLEU", "million parameters", "FLOPs")
    header = ["row", *(word for name in measured for word in (name, "paper"))]
    about = (
        "The paper's numbers are for the same row at the paper's size, on its data. Perplexity is "
        "per piece (e to the power of the validation loss), and compares only where the pieces are "
        "the same. BLEU here is greedy sacreBLEU on the validation set; the paper's is tokenised, "
        "with beam search. Test BLEU is each seed's last evaluation of the test set by one model, "
        "not by an ensemble: compound-split and tokenised like the paper's if the target is "
        "German, else sacreBLEU. FLOPs here are counted; the paper's are estimated from the time "
        "on its GPUs."
    )
    return [
        Heading("Comparison with the paper"),
        Paragraph(about),
        Table(header, rows, numbers=range(1, len(header))),
    ]


def _compared(group: Group, row: dict[str, Any]) -> list[str]:
    loss, flops = _mean(group.values("loss")), group.card.get("flops")
    parameters = group.card.get("parameters")
    compared = (
        (loss and math.exp(loss), row.get("perplexity"), ".2f", ".2f"),
        (_mean(group.values("bleu")), row.get("bleu"), ".1f", ".1f"),
        (_mean(_test_bleus(group)), row.get("test_bleu"), ".1f", ".1f"),
        (parameters and parameters / 1e6, row.get("millions"), ".3g", ".0f"),
        (flops, row.get("flops"), ".2e", ".2e"),
    )
    cells = [(number(here, a), number(printed, b)) for here, printed, a, b in compared]
    return [str(row.get("row", group.name)), *(cell for pair in cells for cell in pair)]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _test_bleus(group: Group) -> list[float]:
    """Each seed's last evaluation of the test set by one model."""
    found = []
    for run in group.finished:
        alone = [e for e in run.evaluations if e["split"] == "test" and not e.get("ensemble")]
        for e in alone[-1:]:
            found.append(e["bleu"] if e.get("paper_bleu") is None else e["paper_bleu"])
    return found


# ------------------------------------------------------------------------------ tables about runs
def samples(chosen: Sequence[tuple[str, Run]]) -> list[Block]:
    """The last translations of a few validation sentences, by each (title, run)."""
    blocks: list[Block] = [Heading("Translations")]
    columns = ["source", "reference", "translation"]
    for title, run in chosen:
        if not run.samples:
            blocks.append(Paragraph(f"{title}: the run has kept no samples.", True))
            continue
        last = run.samples[-1]["step"]
        rows = [[row[name] for name in columns] for row in run.samples if row["step"] == last]
        blocks += [Paragraph(f"{title}, greedy, at step {last:,}:"), Table(columns, rows)]
    return blocks


def evaluations(listed: Sequence[Run]) -> list[Block]:
    """The scores that --mode=evaluate measured."""
    rows = [
        [
            *(run.name, e["split"], e.get("weights", NONE), _search(e)),
            *(_score(e, "bleu"), _score(e, "chrf"), number(e.get("sentences"), ",d")),
            e.get("bleu_signature", NONE),
        ]
        for run in listed
        for e in run.evaluations
    ]
    heading = Heading("Evaluations")
    if not rows:
        return [heading, Paragraph("--mode=evaluate has not been run.", True)]
    header = ["run", "split", "weights", "search", "BLEU", "chrF2++", "sentences", "BLEU signature"]
    about = "By --mode=evaluate, ± half of the 95 % bootstrap interval over sentences."
    trained_on = dict.fromkeys(
        f"{run.name} was trained on {_overlap(e['split'], e['trained_on'])}."
        for run in listed
        for e in run.evaluations
        if (e.get("trained_on") or {}).get("sources")
    )
    warnings = [Paragraph(text, True) for text in trained_on]
    whole = [heading, Paragraph(about), Table(header, rows, numbers=(4, 5, 6)), *warnings]
    return [*whole, *_by_kind(listed)]


def _by_kind(listed: Sequence[Run]) -> list[Block]:
    """A table for each kind of sentence, whose columns are the bins."""
    found = [(run, e) for run in listed for e in run.evaluations]
    kinds = dict.fromkeys(kind for _, e in found for kind in e.get("bins", {}))
    blocks: list[Block] = []
    for kind in kinds:
        those = [(run, e) for run, e in found if kind in e.get("bins", {})]
        names = {b["name"] for _, e in those for b in e["bins"][kind]}
        ordered = sorted(names, key=lambda n: (int(re.match(r"\d*", n)[0] or 0), n))
        rows = []
        for run, e in those:
            bins = {b["name"]: b for b in e["bins"][kind]}
            cells = [_bin(bins[name]) if name in bins else NONE for name in ordered]
            rows.append([run.name, e["split"], _search(e), *cells])
        header = ["run", "split", "search", *ordered]
        about = Paragraph(f"BLEU / chrF2++ (sentences) by {kind}:")
        blocks += [about, Table(header, rows, numbers=range(3, len(header)))]
    return blocks


def _bin(scores: dict[str, Any]) -> str:
    return f"{scores['bleu']:.1f} / {scores['chrf']:.1f} ({scores['sentences']:,})"


def _overlap(split: str, counts: dict[str, int]) -> str:
    pairs, sources, of = (counts[name] for name in ("pairs", "sources", "of"))
    return f"{pairs:,} pairs and {sources:,} sources of {of:,} in {split}"


def _search(evaluation: dict[str, Any]) -> str:
    """The search, such as "beam 4, mbr, ensemble of 2"."""
    decode, others = evaluation.get("decode", {}), evaluation.get("ensemble")
    method = decode.get("method", NONE)
    beams = f" {decode['beam_size']}" if method == "beam" else ""
    choice = decode.get("choose", "model")  # which evaluations of earlier versions do not name
    chosen = f", {choice}" if choice != "model" else ""
    return f"{method}{beams}{chosen}" + (f", ensemble of {len(others) + 1}" if others else "")


def _score(evaluation: dict[str, Any], metric: str) -> str:
    width = evaluation.get(f"{metric}_interval")
    return number(evaluation.get(metric), ".1f") + (f" ± {width:.1f}" if width else "")


def options(run: Run) -> list[Block]:
    """The options of a run that are not the defaults."""
    default = flatten(Config())
    rows = [[o, str(v), str(default[o])] for o, v in run.options.items() if default[o] != v]
    return [Heading("Options that differ from the defaults"),
            Table(["option", "here", "default"], rows)]  # fmt: skip


def facts(listed: Sequence[Run]) -> list[Block]:
    """The facts on the cards: code, machine, data, time."""
    blocks: list[Block] = [Heading("How it was made")]
    cards = [run.card for run in listed if run.card]
    without = [run.name for run in listed if not run.card]
    if without:
        which = ", ".join(without[:5]) + (" and others" if len(without) > 5 else "")
        blocks.append(Paragraph(f"Without a card (card.json): {which}.", True))
    if not cards:
        return blocks
    rows = [
        [fact, _common([form(_get(card, path)) for card in cards])] for fact, path, form in _FACTS
    ]
    seconds = [run.seconds for run in listed if run.seconds is not None]
    rows.append(["total wall time", clock(math.fsum(seconds)) if seconds else NONE])
    return [*blocks, Table(["fact", "value"], rows)]


def _get(card: dict[str, Any], path: str) -> Any:
    found: Any = card
    for name in path.split("."):
        found = (found or {}).get(name)
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {NONE if v is None else v}" for name, v in value.items())
    return NONE if value is None else str(value)


def _integer(value: Any) -> str:
    return number(value, ",d")


def _overlaps(found: dict[str, dict[str, int]] | None) -> str:
    return "; ".join(_overlap(*item) for item in (found or {}).items()) or NONE


def _commit(code: dict[str, Any] | None) -> str:
    """The commit; cards of earlier versions have a hash of the uncommitted changes."""
    code = code or {}
    changed = code.get("uncommitted") or (code.get("describe") or "").endswith("-dirty")
    return _text(code.get("commit")) + (" with uncommitted changes" if changed else "")


_FACTS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("state", "state", _text),
    ("started", "started", _text),
    ("commit", "code", _commit),
    ("versions", "versions", _text),
    ("devices", "devices", _text),
    ("training text (hash)", "data.training_text", _text),
    ("validation text (hash)", "data.validation_text", _text),
    ("also in the training text", "data.trained_on", _overlaps),
    ("tokenizer (hash)", "data.tokenizer", _text),
    ("seed", "seed", _text),
    ("parameters", "parameters", _integer),
    ("steps", "steps", _integer),
    ("source tokens", "tokens.source", _integer),
    ("target tokens", "tokens.target", _integer),
    ("FLOPs", "flops", lambda value: number(value, ".2e")),
    ("starts", "starts", _text),
)


def _common(values: Sequence[str]) -> str:
    """The different values if they are few, else their number and the first three."""
    different = list(dict.fromkeys(values))
    few = "; ".join(different[:3])
    return few if len(different) <= 3 else f"{len(different)} different, among them {few}"
