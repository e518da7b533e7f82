"""What a few seeds show: intervals of means by Student's t, and differences by Welch's test."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

from scipy import stats

LEVEL = 0.95


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of normally distributed values; None for one value.

    With two values it is 12.7 standard errors, and rightly so.

    >>> round(half_width([1.0, 2.0, 3.0]), 6)
    2.484138
    """
    if len(values) < 2:
        return None
    return float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference of two means.

    Attributes:
      value: the second mean less the first.
      half_width: half of its 95 % interval.
      p: the probability of a difference at least this large if both were equally good.
    """

    value: float
    half_width: float
    p: float


def welch(a: Sequence[float], b: Sequence[float]) -> Difference | None:
    """Welch's two-sided t-test (Welch 1947); None if a side has one value, or neither varies.

    It treats the sides as independent. The same seeds on both sides are not quite, but a seed draws
    the same numbers only where the shapes are the same; the unpaired test errs towards caution.
    """
    if min(len(a), len(b)) < 2 or len(set(a)) == len(set(b)) == 1:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the values of one side are equal is not an error
        test = stats.ttest_ind(b, a, equal_var=False)
    low, high = test.confidence_interval(LEVEL)
    value = math.fsum(b) / len(b) - math.fsum(a) / len(a)
    return Difference(value, float(high - low) / 2, float(test.pvalue))
