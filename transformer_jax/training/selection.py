"""What validation decides besides the best checkpoint: when a run ends, and what is averaged."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Scores = Mapping[str, float | None]  # of one validation: "bleu" and "loss", None = not finite


def waited(validations: Mapping[int, Scores]) -> int:
    """How many validations there are since the last one that was better than all before it.

    Better is a higher BLEU or a lower loss: at first BLEU stays at 0 while the loss falls, and
    later the loss rises while BLEU still does. Marian calls it `--early-stopping-on all`.

    >>> waited({100: {"bleu": 3.0, "loss": 4.0}, 200: {"bleu": 3.0, "loss": 4.5}})
    1
    """
    count, bleu, loss = 0, -math.inf, math.inf
    for _, scores in sorted(validations.items()):
        new_bleu, new_loss = _or(scores.get("bleu"), -math.inf), _or(scores.get("loss"), math.inf)
        count = 0 if new_bleu > bleu or new_loss < loss else count + 1
        bleu, loss = max(bleu, new_bleu), min(loss, new_loss)
    return count


def candidates(steps: Sequence[int], *, number: int, best: int | None) -> list[tuple[int, ...]]:
    """The checkpoints of each average to choose from: the last few, and those around the best.

    Args:
      steps: of the checkpoints to average, ascending.
      number: the most checkpoints in an average.
      best: the step of the best one of them; None = it is not known.

    >>> candidates([4, 5, 6, 7, 8, 9], number=3, best=5)
    [(9,), (8, 9), (7, 8, 9), (5,), (4, 5, 6)]
    """
    last = [tuple(steps[-n:]) for n in range(1, min(number, len(steps)) + 1)]
    around = []
    if best in steps:
        place = steps.index(best)
        reach = range((number - 1) // 2 + 1)
        around = [tuple(steps[max(0, place - n) : place + n + 1]) for n in reach]
    return list(dict.fromkeys(last + around))


def choose(
    averages: Sequence[tuple[int, ...]], validate: Callable[[tuple[int, ...]], dict[str, float]]
) -> list[dict[str, Any]]:
    """Validates each average; [{"steps": […], "bleu": …, "loss": …}, …], the best first."""
    rows = [{"steps": list(steps), **validate(steps)} for steps in averages]
    return sorted(rows, key=lambda row: (-row["bleu"], _or(row["loss"], math.inf)))


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or math.isnan(value) else value
