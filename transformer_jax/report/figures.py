"""Draws the figures of a report as PNG."""

import dataclasses
import io
import logging
import math
import warnings
from collections.abc import Sequence

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs its search for fonts

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
MOST_NAMED = len(_COLORS)
_FAINT, _GRID = "#C3C7CE", "#E6E8EC"
_LONGEST_NAME = 40


@dataclasses.dataclass(frozen=True)
class Line:
    """Points of a curve.

    Attributes:
      name: the entry in the legend, shared by all lines of this name, as is their colour; "" for a
        grey line in the background.
      steps: steps of the training.
      values: the values at those steps; nan leaves a gap.
      marked: whether each point has a dot.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    marked: bool = False


def curves(
    lines: Sequence[Line], *, label: str, logarithmic: bool = False, others: str = "the others"
) -> bytes | None:
    """Draws the lines into one picture.

    Args:
      lines: lines of at most MOST_NAMED names.
      label: the label of the vertical axis, with its unit.
      logarithmic: whether the vertical axis is logarithmic.
      others: the entry of the grey lines in the legend.

    Returns:
      A PNG; None if no line has a point.
    """
    colors = dict(zip(dict.fromkeys(x.name for x in lines if x.name), _COLORS, strict=False))
    drawn = [line for line in lines if any(map(math.isfinite, line.values))]
    if not drawn:
        return None
    figure, axes = _axes(3.9)
    handles = {}
    for line in sorted(drawn, key=lambda line: not line.name):  # grey ones end the legend
        style = {"linewidth": 1.6, "zorder": 3} if line.name else {"linewidth": 0.8, "zorder": 2}
        if line.marked or len(line.steps) == 1:
            style |= {"marker": "o", "markersize": 3.5}
        color = colors.get(line.name, _FAINT)
        (handle,) = axes.plot(line.steps, line.values, color=color, **style)
        handles.setdefault(line.name or others, handle)
    if logarithmic:
        axes.set_yscale("log", nonpositive="mask")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(color=_GRID)
    if len(handles) > 1:
        outside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
        axes.legend(
            handles.values(), map(_short, handles), **outside, frameon=False, fontsize="small"
        )
    return _png(figure)


def bars(names: Sequence[str], shares: Sequence[float], *, label: str) -> bytes:
    """Draws horizontal bars, the first at the top, as PNG."""
    figure, axes = _axes(0.9 + 0.34 * len(names))
    axes.barh(range(len(names)), shares, color=_COLORS[0], height=0.62)
    axes.set_yticks(range(len(names)), map(_short, names))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="x", color=_GRID)
    return _png(figure)


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.4, height), dpi=140, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _short(name: str) -> str:
    short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return short.replace("$", r"\$")  # else a formula


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that the font lacks is drawn as a box
        figure.savefig(content, format="png")
    return content.getvalue()
