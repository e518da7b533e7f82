"""Curves, as PNG: of one run, or of the groups of a sweep together."""

import dataclasses
import io
import logging
import math
import warnings
from collections.abc import Sequence

import matplotlib
import matplotlib.figure
from matplotlib import ticker

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # that it looks for fonts is no news
matplotlib.rcParams["text.parse_math"] = False  # a "$" in a name is a dollar

_SIZE, _DOTS_PER_INCH = (8.4, 3.9), 140
# Okabe and Ito's, which the colour-blind tell apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
MOST_NAMED = len(_COLORS)
_FAINT = "#C3C7CE"
_LONGEST_NAME = 40


@dataclasses.dataclass(frozen=True)
class Line:
    """Points of a curve.

    Attributes:
      name: in the legend. Lines of one name share a colour, and stand there once; "" is one of
        many, grey and behind the others.
      steps: of training.
      values: at them; nan is a gap.
      marked: whether each point is a dot, too.
    """

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    marked: bool = False


def curves(
    lines: Sequence[Line], *, label: str, logarithmic: bool = False, others: str = "the others"
) -> bytes | None:
    """The lines in one picture.

    Args:
      lines: of at most MOST_NAMED names.
      label: of the vertical axis, with its unit.
      logarithmic: whether that axis is.
      others: what the grey lines are, in the legend.

    Returns:
      A PNG; None if no line has a point.
    """
    drawn = [line for line in lines if any(map(math.isfinite, line.values))]
    if not drawn:
        return None
    figure = matplotlib.figure.Figure(figsize=_SIZE, dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    names = list(dict.fromkeys(line.name for line in lines if line.name))
    colors = dict(zip(names, _COLORS, strict=False))
    handles = {}
    for order, line in enumerate(drawn):
        color = colors.get(line.name, _FAINT)
        dots = {"marker": "o", "markersize": 3.5} if line.marked or len(line.steps) == 1 else {}
        front = {"linewidth": 1.6, "zorder": 3} if line.name else {"linewidth": 0.8, "zorder": 2}
        (handle,) = axes.plot(line.steps, line.values, color=color, **dots, **front)
        handles.setdefault(line.name or others, (order if line.name else math.inf, handle))
    if logarithmic and any(v > 0 for line in drawn for v in line.values):
        axes.set_yscale("log", nonpositive="mask")
        # matplotlib's own writes its powers of ten as formulas.
        low, high = axes.get_ylim()
        plain = ticker.StrMethodFormatter("{x:g}")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(plain if high / low < 5 else ticker.NullFormatter())
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.grid(color="#E6E8EC", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(handles) > 1:
        _add_legend(axes, {name: h for name, (_, h) in sorted(handles.items(), key=_order)})
    return _png(figure)


def _order(item: tuple) -> float:
    return item[1][0]


def bars(names: Sequence[str], shares: Sequence[float], *, label: str) -> bytes:
    """Horizontal bars, the first on top."""
    size = _SIZE[0], 0.9 + 0.34 * len(names)
    figure = matplotlib.figure.Figure(figsize=size, dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    places = range(len(names))
    axes.barh(places, shares, color=_COLORS[0], height=0.62)
    axes.set_yticks(places, [_short(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#E6E8EC", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _add_legend(axes: matplotlib.axes.Axes, handles: dict) -> None:
    legend = axes.legend(
        list(handles.values()),
        [f"{n}" for n in range(len(handles))],  # a name that begins with "_" would be left out
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize="small",
    )
    for text, name in zip(legend.get_texts(), handles, strict=True):
        text.set_text(_short(name))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _png(figure: matplotlib.figure.Figure) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks is drawn as a box
        # The version of matplotlib would make the same page another one.
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()
