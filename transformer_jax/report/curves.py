"""The section of a report with the curves of its runs."""

import math
from collections.abc import Sequence

import numpy as np

from transformer_jax.report import figures, runs
from transformer_jax.report.document import Block, Figure, Heading, Paragraph
from transformer_jax.report.runs import Group

_SMOOTHED_OVER = 25  # rows of the training loss
# the figure's name, its vertical axis, the metric, and whether the axis is logarithmic
_CURVES = (
    ("validation_loss", "nats per token", ("valid", "loss"), False),
    ("training_loss", "nats per token, smoothed labels", ("train", "loss"), False),
    ("validation_BLEU", "BLEU, greedy", ("valid", "bleu"), False),
    ("learning_rate", "learning rate", ("train", "learning_rate"), False),
    ("gradient_norm", "norm of the gradient", ("train", "gradient_norm"), True),
)


def section(groups: Sequence[Group]) -> list[Block]:
    """Losses, BLEU, learning rate and gradient norm by step, of all runs together."""
    blocks: list[Block] = [Heading("Curves")]
    colored = _colored(groups)
    if len(groups) > len(colored):
        text = (
            f"In colour: the baseline, {colored[0].name}, and the {len(colored) - 1} groups with "
            "the lowest validation loss, in this order, with a line for each seed. The others are "
            "grey; the table lists them."
        )
        blocks.append(Paragraph(text))
    single = sum(len(group.runs) for group in groups) == 1
    for name, label, metric, logarithmic in _CURVES:
        lines = []
        for group in [*colored, *(group for group in groups if group not in colored)]:
            lines += _lines(group, metric, group.name if group in colored else "", single)
        others = "each row" if single else "the others"
        png = figures.curves(lines, label=label, logarithmic=logarithmic, others=others)
        title = (name[0].upper() + name[1:]).replace("_", " ")
        if png is None:
            blocks.append(Paragraph(f"{title}: nothing was recorded.", True))
            continue
        how = f" (mean of {_SMOOTHED_OVER} rows)" if metric == ("train", "loss") else ""
        blocks.append(Figure(name, png, f"{title}{how}, by step"))
    return blocks


def _colored(groups: Sequence[Group]) -> list[Group]:
    """All groups, or if there are too many the baseline and the best."""
    if len(groups) <= figures.MOST_NAMED:
        return list(groups)
    base = runs.baseline(groups)
    others = [g for g in runs.ranking(groups) if g is not base and g.values("loss")]
    return [base, *others[: figures.MOST_NAMED - 1]]


def _lines(group: Group, metric: tuple[str, str], name: str, single: bool) -> list[figures.Line]:
    lines = []
    for run in group.runs:
        steps, values = run.series(*metric)
        if metric == ("train", "loss"):
            if single:  # behind its mean
                lines.append(figures.Line("", steps, values))
            values = _smooth(values)
        lines.append(figures.Line(name, steps, values, marked=metric[0] == "valid"))
    return lines


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of the finite ones among the last rows, at each row."""
    smooth = []
    for end in range(1, len(values) + 1):
        finite = [v for v in values[max(0, end - _SMOOTHED_OVER) : end] if math.isfinite(v)]
        smooth.append(float(np.mean(finite)) if finite else math.nan)
    return smooth
