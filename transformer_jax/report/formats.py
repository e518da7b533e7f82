"""How a report writes numbers."""

import math
from collections.abc import Sequence
from typing import Any

from transformer_jax import console
from transformer_jax.report import statistics

NONE = "–"


def mean(values: Sequence[float], digits: int) -> str:
    """The mean with half of its interval, "1.6250 ± 0.0120"; of one value just the value."""
    if not values:
        return NONE
    width = statistics.half_width(values)
    value = f"{math.fsum(values) / len(values):.{digits}f}"
    return value if width is None else f"{value} ± {width:.{digits}f}"


def number(value: Any, form: str) -> str:
    """A number in a format such as ",d" or ".2e"; "–" for None."""
    return NONE if value is None else f"{value:{form}}"


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds; "–" for None."""
    return NONE if seconds is None else console.clock(round(seconds))
