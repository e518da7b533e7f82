"""The sections of a report: from runs to blocks of a document. What is missing is said."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from transformer_jax import console
from transformer_jax.config.options import Config, flatten
from transformer_jax.report import figures, runs, statistics
from transformer_jax.report.document import Block, Figure, Heading, Paragraph, Table
from transformer_jax.report.runs import Group, Run
from transformer_jax.report.statistics import Mean

_SMOOTHED_OVER = 25  # rows of the training loss
NONE = "–"
Paper = Callable[[str], dict[str, Any] | None]


# ------------------------------------------------------------------------------------ the curves
def curves(groups: Sequence[Group]) -> list[Block]:
    """Losses, BLEU, learning rate and gradient norm by step: the runs of `groups` together."""
    blocks: list[Block] = [Heading("Curves")]
    named = _named(groups)
    if len(groups) > len(named):
        blocks.append(
            Paragraph(
                f"In colour: {named[0]}, which is the baseline, and the {len(named) - 1} with the "
                "least validation loss, in their order; "
                "each seed is a line of its own. The others are grey, and stand in the table."
            )
        )
    place = {name: n for n, name in enumerate(named)}
    groups = sorted(groups, key=lambda group: place.get(group.name, len(place)))
    single = len(groups) == 1 and len(groups[0].runs) == 1
    for name, label, metrics, logarithmic in _CURVES:
        lines = [line for group in groups for line in _lines(group, metrics, named, single)]
        others = "each row" if single else "the others"
        png = figures.curves(lines, label=label, logarithmic=logarithmic, others=others)
        what = name.replace("_", " ")
        if png is None:
            blocks.append(Paragraph(f"No curve of the {what}: nothing was written of it.", True))
        else:
            smoothed = "train" in dict(metrics) and "loss" in name
            how = f" (mean of {_SMOOTHED_OVER} rows)" if smoothed else ""
            blocks.append(Figure(name, png, f"{what[0].upper()}{what[1:]}{how}, by step"))
    return blocks


# name of the figure, its vertical axis, ((group, metric), …), whether that axis is logarithmic
_CURVES = (
    ("validation_loss", "nats per token", (("valid", "loss"),), False),
    ("training_loss", "nats per token, smoothed labels", (("train", "loss"),), False),
    ("validation_BLEU", "BLEU, greedy", (("valid", "bleu"),), False),
    ("learning_rate", "learning rate", (("train", "learning_rate"),), False),
    ("gradient_norm", "norm of the gradient", (("train", "gradient_norm"),), True),
)


def _named(groups: Sequence[Group]) -> list[str]:
    """The groups that are drawn in colour: all, or the baseline and the best."""
    if len(groups) <= figures.MOST_NAMED:
        return [group.name for group in groups]
    ranked = [group for group in ranking(groups) if group.values("loss")]
    base = runs.baseline(groups)
    others = [group.name for group in ranked if group is not base]
    return [base.name, *others[: figures.MOST_NAMED - 1]]


def _lines(
    group: Group, metrics: Sequence[tuple[str, str]], named: Sequence[str], single: bool
) -> list[figures.Line]:
    name = group.name if group.name in named else ""
    lines = []
    for run in group.runs:
        for kind, metric in metrics:
            steps, values = run.series(kind, metric)
            if kind == "train" and metric == "loss":
                if single:  # behind its mean
                    lines.append(figures.Line("", steps, values))
                values = _smooth(values)
            lines.append(figures.Line(name, steps, values, marked=kind == "valid"))
    return lines


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of the finite ones among the last rows."""
    smooth = []
    for n in range(len(values)):
        window = [v for v in values[max(0, n + 1 - _SMOOTHED_OVER) : n + 1] if math.isfinite(v)]
        smooth.append(math.fsum(window) / len(window) if window else math.nan)
    return smooth


# ------------------------------------------------------------------------------------- the points
def ranking(groups: Sequence[Group]) -> list[Group]:
    """The groups by their mean validation loss, the least first; those without one last."""

    def key(group: Group) -> float:
        found = statistics.mean(group.values("loss"))
        return found.value if found else math.inf

    return sorted(groups, key=key)


def points(groups: Sequence[Group]) -> list[Block]:
    """The table of a sweep's groups, and what failed."""
    rows = []
    for group in ranking(groups):
        loss, bleu = (statistics.mean(group.values(metric)) for metric in ("loss", "bleu"))
        states = [run.state for run in group.runs]
        n = len(group.values("loss"))
        state = "" if set(states) == {"finished"} else ", ".join(sorted(set(states)))
        rows.append(
            [
                group.name,
                f"{n}" + (f" of {len(states)}" if n < len(states) else ""),
                interval(loss, 4),
                interval(bleu, 2),
                integer(group.card.get("parameters")),
                power(group.card.get("flops")),
                clock(_mean_seconds(group)),
                state,
            ]
        )
    header = ["point", "seeds", "validation loss", "BLEU", "parameters", "FLOPs", "time", "state"]
    blocks: list[Block] = [
        Heading("Points"),
        Paragraph(
            "The last validation of each: loss in nats per token without label smoothing, greedy "
            "BLEU. Points that differ in the seed alone are one row: the mean over n seeds, ± half "
            "of its 95 % interval by Student's t with n − 1 degrees of freedom. One seed has no "
            "interval. Parameters and FLOPs (what the model needs, for all steps) are a run's, and "
            "time is its wall time."
        ),
        Table(header, rows, numbers=range(1, 7)),
    ]
    for name, what in (
        ("tokenizer", "vocabularies: their losses do not compare"),
        ("validation_text", "validation sets: neither losses nor BLEU compare"),
    ):
        found = [_inner("data", name)(run.card) for group in groups for run in group.runs]
        if len({json.dumps(value, sort_keys=True) for value in found if value}) > 1:
            blocks.append(Paragraph(f"The points have different {what}.", True))
    again = [run.name for group in groups for run in _repeated(group)]
    if again:
        said = f"Not counted, being of a seed that is there already: {', '.join(again)}."
        blocks.append(Paragraph(said, True))
    failed = [[r.name, r.reason or NONE] for g in groups for r in g.runs if r.state == "failed"]
    if failed:
        blocks += [Paragraph("Points that failed:"), Table(["point", "reason"], failed)]
    return blocks


def _repeated(group: Group) -> list[Run]:
    counted = group.finished
    return [run for run in group.runs if run.state == "finished" and run not in counted]


def _mean_seconds(group: Group) -> float | None:
    seconds = [run.seconds for run in group.runs if run.seconds is not None]
    return sum(seconds) / len(seconds) if seconds else None


# -------------------------------------------------------------------------------------- the paper
def paper(groups: Sequence[Group], printed: Paper | None, where: str) -> list[Block]:
    """What was measured beside what a paper printed, of the groups that reproduce a row of it."""
    rows = []
    for group in groups if printed else ():
        row = printed(group.runs[0].name)
        if row is None:
            continue
        card, loss = group.card, statistics.mean(group.values("loss"))
        bleu = statistics.mean(group.values("bleu"))
        parameters = card.get("parameters")
        millions = f"{parameters / 1e6:.3g}" if isinstance(parameters, int) else NONE
        rows.append(
            [
                str(row.get("row", group.name)),
                *(f"{math.exp(loss.value):.2f}" if loss else NONE, _printed(row, "perplexity", 2)),
                *(f"{bleu.value:.1f}" if bleu else NONE, _printed(row, "bleu", 1)),
                *(_test_bleu(group), _printed(row, "test_bleu", 1)),
                *(millions, _printed(row, "millions", 0)),
                *(power(card.get("flops")), power(row.get("flops"))),
            ]
        )
    if not rows:
        return []
    measured = ("perplexity", "BLEU", "test BLEU", "million parameters", "FLOPs")
    header = ["row", *(word for name in measured for word in (name, "paper"))]
    return [
        Heading("Beside the paper"),
        Paragraph(
            f"What {where} says the paper printed of the same row, at the paper's size and on its "
            "data. Perplexity is per piece (e to the power of the validation loss), and compares "
            "only where the pieces are the same. BLEU here is greedy sacreBLEU of the validation "
            "set, the paper's is tokenised, by beam search. Test BLEU is of each seed's last "
            "evaluation of the test set by one model, not by an ensemble: compound-split and "
            "tokenised as the paper's if the target is German, else sacreBLEU. FLOPs here are "
            "counted, the paper's are estimated from the time its GPUs took."
        ),
        Table(header, rows, numbers=range(1, len(header))),
    ]


def _test_bleu(group: Group) -> str:
    """The mean over seeds, of each one's last evaluation of the test set."""
    found = []
    for run in group.finished:
        measured = run.card.get("results", {}).get("evaluations") or []
        alone = [e for e in measured if e.get("split") == "test" and not e.get("ensemble")]
        for e in alone[-1:]:
            value = e.get("bleu") if e.get("paper_bleu") is None else e["paper_bleu"]
            found += [value] if isinstance(value, int | float) else []
    mean = statistics.mean(found)
    return f"{mean.value:.1f}" if mean else NONE


def _printed(row: dict[str, Any], name: str, digits: int) -> str:
    return NONE if row.get(name) is None else f"{row[name]:.{digits}f}"


# ----------------------------------------------------------------------------- samples, facts, …
def samples(chosen: Sequence[tuple[str, Run]]) -> list[Block]:
    """The last translations of the same few validation sentences, of each (title, run)."""
    blocks: list[Block] = [Heading("Translations")]
    for title, run in chosen:
        if not run.samples:
            blocks.append(Paragraph(f"{title}: the run has kept no samples.", True))
            continue
        last = run.samples[-1]["step"]
        rows = [
            [row[name] for name in ("source", "reference", "translation")]
            for row in run.samples
            if row["step"] == last
        ]
        blocks += [
            Paragraph(f"{title}, greedy, at step {last:,}:"),
            Table(["source", "reference", "translation"], rows),
        ]
    return blocks


def evaluations(listed: Sequence[Run]) -> list[Block]:
    """What --mode=evaluate measured."""
    rows = []
    for run in listed:
        found = run.card.get("results", {}).get("evaluations") or []
        for e in found:
            rows.append(
                [
                    *(run.name, str(e.get("split")), str(e.get("weights")), _search(e)),
                    *(scored(e, "bleu"), scored(e, "chrf"), integer(e.get("sentences"))),
                    str(e.get("bleu_signature")),
                ]
            )
    if not rows:
        return [Heading("Evaluations"), Paragraph("--mode=evaluate has measured nothing.", True)]
    header = [
        "run",
        "split",
        "weights",
        "search",
        "BLEU",
        "chrF2++",
        "sentences",
        "signature of BLEU",
    ]
    return [
        Heading("Evaluations"),
        Paragraph("By --mode=evaluate, ± half of the 95 % bootstrap interval over sentences."),
        Table(header, rows, numbers=(4, 5, 6)),
    ]


def _search(evaluation: dict[str, Any]) -> str:
    """Such as "beam 4, ensemble of 2"."""
    decode, others = evaluation.get("decode"), evaluation.get("ensemble")
    decode = decode if isinstance(decode, dict) else {}
    method = str(decode.get("method", NONE))
    said = f"{method} {decode.get('beam_size')}" if method == "beam" else method
    return f"{said}, ensemble of {len(others) + 1}" if isinstance(others, list) else said


def options(run: Run) -> list[Block]:
    """The options of a run that are not the defaults."""
    default = flatten(Config())
    rows = [[name, f"{v}", f"{default[name]}"] for name, v in run.options.items() if
            default.get(name) != v]  # fmt: skip
    return [Heading("Options that are not the default"), Table(["option", "here", "default"], rows)]


def facts(listed: Sequence[Run]) -> list[Block]:
    """What the cards say: the code, the machine, the data, the time."""
    blocks: list[Block] = [Heading("How it was made")]
    cards = [run.card for run in listed if run.card]
    without = [run.name for run in listed if not run.card]
    if without:
        which = ", ".join(without[:5]) + (" and others" if len(without) > 5 else "")
        blocks.append(Paragraph(f"Without a card (card.json): {which}.", True))
    if not cards:
        return blocks
    rows = [[name, _common([value(card) for card in cards])] for name, value in _FACTS]
    seconds = [run.seconds for run in listed if run.seconds is not None]
    rows.append(["wall time, in all", clock(math.fsum(seconds)) if seconds else NONE])
    return [*blocks, Table(["fact", "value"], rows)]


def _inner(*path: str) -> Callable[[dict[str, Any]], Any]:
    def value(card: dict[str, Any]) -> Any:
        found: Any = card
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    return value


def _uncommitted(code: Any) -> Any:
    """Whether a card's code differs from its commit; cards of earlier versions have a hash."""
    code = code if isinstance(code, dict) else {}
    dirty = str(code.get("describe")).endswith("-dirty")
    return "yes" if dirty else code.get("uncommitted")


_FACTS: tuple[tuple[str, Callable[[dict[str, Any]], Any]], ...] = (
    ("state", _inner("state")),
    ("started", _inner("started")),
    ("commit", _inner("code", "commit")),
    ("uncommitted changes", lambda card: _uncommitted(card.get("code"))),
    ("versions", _inner("versions")),
    ("devices", _inner("devices")),
    ("training text (hash)", _inner("data", "training_text")),
    ("validation text (hash)", _inner("data", "validation_text")),
    ("tokenizer (hash)", _inner("data", "tokenizer")),
    ("seed", _inner("seed")),
    ("parameters", lambda card: integer(card.get("parameters"))),
    ("steps", lambda card: integer(card.get("steps"))),
    ("tokens, of source", lambda card: integer(_inner("tokens", "source")(card))),
    ("tokens, of target", lambda card: integer(_inner("tokens", "target")(card))),
    ("FLOPs", lambda card: power(card.get("flops"))),
    ("starts", _inner("starts")),
)


def _common(values: Sequence[Any]) -> str:
    """The value if it is the same in all, else how many there are."""
    shown = list(dict.fromkeys(map(_shown, values)))
    few = "; ".join(shown[:3])
    return few if len(shown) <= 3 else f"{len(shown)} different ones, {few} among them"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {NONE if v is None else v}" for name, v in value.items())
    return "none" if value is None else f"{value}"


# ---------------------------------------------------------------------------------------- numbers
def interval(found: Mean | None, digits: int) -> str:
    """A mean as "1.6250 ± 0.0120"; without an interval just the number."""
    if found is None:
        return NONE
    width = "" if found.half_width is None else f" ± {found.half_width:.{digits}f}"
    return f"{found.value:.{digits}f}{width}"


def scored(evaluation: dict[str, Any], metric: str) -> str:
    """A metric of an evaluation with its bootstrap interval."""
    value, width = (evaluation.get(f"{metric}{end}") for end in ("", "_interval"))
    if not isinstance(value, int | float) or not isinstance(width, int | float):
        return NONE
    return f"{value:.1f} ± {width:.1f}" if width else f"{value:.1f}"


def integer(value: Any) -> str:
    """12,345; – if it is no whole number."""
    return f"{value:,}" if isinstance(value, int) else NONE


def power(value: Any) -> str:
    """1.23e+15; – if it is no number."""
    return f"{value:.2e}" if isinstance(value, int | float) else NONE


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds; – if they are not known."""
    return NONE if seconds is None or not math.isfinite(seconds) else console.clock(round(seconds))
