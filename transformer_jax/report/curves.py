"""The section of a report with the curves of its runs."""

import math
from collections.abc import Sequence

from matplotlib import ticker

from transformer_jax.report import figures, runs
from transformer_jax.report.document import Block, Figure, Heading, Paragraph
from transformer_jax.report.runs import Group

_SMOOTHED_OVER = 25  # rows of the training loss
_TRAINING_LOSS = ("train", "loss")
# title, vertical axis and its scale, metric
_CURVES = (
    ("Validation loss", "nats per token", "linear", ("valid", "loss")),
    ("Training loss", "nats per token, smoothed labels", "linear", _TRAINING_LOSS),
    ("Validation BLEU", "BLEU, greedy", "linear", ("valid", "bleu")),
    ("Learning rate", "learning rate", "linear", ("train", "learning_rate")),
    ("Gradient norm", "norm of the gradient", "log", ("train", "gradient_norm")),
)


def section(groups: Sequence[Group]) -> list[Block]:
    """Losses, BLEU, learning rate and gradient norm by step, of all runs together."""
    blocks: list[Block] = [Heading("Curves")]
    colored = _colored(groups)
    grey = [group for group in groups if group not in colored]
    if grey:
        text = (
            f"In colour: the baseline, {colored[0].name}, and the {len(colored) - 1} groups that "
            "rank highest in the table, in this order, with a line for each seed. The others are "
            "grey."
        )
        blocks.append(Paragraph(text))
    for title, label, scale, metric in _CURVES:
        png = _draw(colored, grey, metric, label, scale)
        if png is None:
            blocks.append(Paragraph(f"{title}: nothing was recorded.", True))
            continue
        how = f" (mean of {_SMOOTHED_OVER} rows)" if metric == _TRAINING_LOSS else ""
        blocks.append(Figure(title.lower().replace(" ", "_"), png, f"{title}{how}, by step"))
    return blocks


def _colored(groups: Sequence[Group]) -> list[Group]:
    """All groups, or if there are too many the baseline and the best."""
    if len(groups) <= len(figures.COLORS):
        return list(groups)
    base = runs.baseline(groups)
    others = [g for g in runs.ranking(groups) if g is not base and g.finished]
    return [base, *others[: len(figures.COLORS) - 1]]


def _draw(
    colored: Sequence[Group], grey: Sequence[Group], metric: tuple[str, str], label: str, scale: str
) -> bytes | None:
    """One metric of all runs in a figure; None if none has recorded it."""
    axes, legend = figures.axes(3.9), {}
    axes.set(xlabel="step", ylabel=label, yscale=scale)
    single = len(colored) == 1 and len(colored[0].runs) == 1
    background = {"color": figures.FAINT, "linewidth": 0.8, "zorder": 2}
    styles = [(g, g.name, {"color": color, "linewidth": 1.6, "zorder": 3})
              for g, color in zip(colored, figures.COLORS, strict=False)]  # fmt: skip
    styles += [(group, "the others", background) for group in grey]
    for group, name, style in styles:
        for run in group.runs:
            steps, values = run.series(*metric)
            if not any(map(math.isfinite, values)):
                continue
            dotted = metric[0] == "valid" or len(steps) == 1
            dots = {"marker": "o", "markersize": 3.5} if dotted else {}
            shown = _smooth(values) if metric == _TRAINING_LOSS else values
            (line,) = axes.plot(steps, shown, **style, **dots)
            legend.setdefault(name, line)
            if single and shown is not values:
                (legend["each row"],) = axes.plot(steps, values, **background)
    if not legend:
        return None
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    if len(legend) > 1:
        names = map(figures.short, legend)
        outside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        axes.legend(legend.values(), names, **outside, frameon=False, fontsize="small")
    return figures.png(axes)


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean of the finite ones among the last rows, at each row."""
    smooth = []
    for end in range(1, len(values) + 1):
        finite = [v for v in values[max(0, end - _SMOOTHED_OVER) : end] if math.isfinite(v)]
        smooth.append(math.fsum(finite) / len(finite) if finite else math.nan)
    return smooth
