"""The style of a report's figures, and their PNG."""

import io
import logging
import warnings

from matplotlib.axes import Axes
from matplotlib.figure import Figure

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs its search for fonts

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D31")
FAINT = "#C3C7CE"
_LONGEST_NAME = 40


def axes(height: float) -> Axes:
    """Empty axes of a figure of `height` inches."""
    axes = Figure(figsize=(8.4, height), dpi=140, layout="constrained").add_subplot()
    axes.grid(color="#E6E8EC")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def short(name: str) -> str:
    """A name as it fits into a figure."""
    name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return name.replace("$", r"\$")  # else a formula


def png(axes: Axes) -> bytes:
    """The figure of the axes as PNG."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that the font lacks is drawn as a box
        axes.figure.savefig(content, format="png")
    return content.getvalue()
