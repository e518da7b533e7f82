"""What numbers of a few seeds say: intervals by Student's t, a difference by Welch's test."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
      value: the mean.
      half_width: of its 95 % interval; None with one seed.
      n: seeds.
    """

    value: float
    half_width: float | None
    n: int


def mean(values: Sequence[float]) -> Mean | None:
    """The mean of `values` with its interval, which assumes that they are normally distributed.

    >>> mean([1.0, 2.0, 3.0])
    Mean(value=2.0, half_width=2.484137711810057, n=3)

    Returns:
      None for no values. With two seeds the interval is 12.7 times the standard error: wide, and
      rightly so.
    """
    if not values:
        return None
    n, value = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Mean(value, None, n)
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    return Mean(value, float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error, n)


@dataclasses.dataclass(frozen=True)
class Difference:
    """B - A, of means over seeds.

    Attributes:
      value: B's mean less A's.
      half_width: of its 95 % interval.
      p: how often chance alone makes a difference this large, were A and B equally good.
    """

    value: float
    half_width: float
    p: float


def welch(a: Sequence[float], b: Sequence[float]) -> Difference | None:
    """Welch's t-test (Welch 1947), two-sided; None if a side has one seed, or neither varies.

    It takes the sides for independent. Of the same seeds they are not quite, but a seed is the same
    draw in both only where the shapes are the same; unpaired, the test errs on the careful side.
    """
    if min(len(a), len(b)) < 2:
        return None
    variances = [float(np.var(side, ddof=1)) / len(side) for side in (a, b)]
    total = sum(variances)
    if total == 0:
        return None
    value = math.fsum(b) / len(b) - math.fsum(a) / len(a)
    # Welch and Satterthwaite's degrees of freedom.
    parts = [v**2 / (len(side) - 1) for v, side in zip(variances, (a, b), strict=True)]
    freedom = total**2 / sum(parts)
    error = math.sqrt(total)
    half_width = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Difference(value, half_width, float(2 * stats.t.sf(abs(value) / error, freedom)))
