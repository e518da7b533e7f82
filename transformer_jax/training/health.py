"""Whether a training still goes anywhere: steps that are not finite, a loss that only rises."""

import dataclasses
import math
from collections.abc import Callable

from transformer_jax.config.options import TrainConfig
from transformer_jax.training.step import FINITE

_SMOOTHING = 0.99  # of the loss: a time constant of 100 steps


class TrainingStopped(ArithmeticError):
    """Going on would only cost time; says why, and which step was the last good one.

    Attributes:
      good_until: a checkpoint of this step or an earlier one is a good one.
    """

    def __init__(self, reason: str, good_until: int) -> None:
        super().__init__(reason)
        self.good_until = good_until


@dataclasses.dataclass
class Health:
    """Looks at each step's metrics, in order. A run that goes on begins to look anew.

    Attributes:
      options: train.max_skipped, divergence_factor and divergence_steps.
      on_skip: told of a step that was skipped, and by what; returns what a person should know.
      skipped: how many were, since the beginning; given, those of before this start.
    """

    options: TrainConfig
    on_skip: Callable[[int, str], str]
    skipped: int = 0

    _skipped_in_a_row: int = 0
    _loss: float = math.nan
    _best: float = math.inf
    _good: int = 0  # the last step whose smoothed loss was not far above its best

    def check(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of a step.

        Raises:
          TrainingStopped: after `max_skipped` steps in a row that were skipped, or
            `divergence_steps` in a row whose smoothed loss is above `divergence_factor` times its
            best.
        """
        wrong = [name for name in FINITE if not math.isfinite(metrics[name])]
        if wrong:
            self._skip(step, f"{wrong[0]} is {metrics[wrong[0]]}")
            return
        self._skipped_in_a_row = 0
        self._follow(step, metrics["loss"])

    def _skip(self, step: int, reason: str) -> None:
        self.skipped += 1
        self._skipped_in_a_row += 1
        told = self.on_skip(step, reason)
        if self._skipped_in_a_row >= self.options.max_skipped:
            good = step - self._skipped_in_a_row
            raise TrainingStopped(
                f"{self._skipped_in_a_row} steps in a row were skipped, the last because its "
                f"{reason} (train.max_skipped); the last good step is {good}; {told}",
                step,  # the skipped ones changed nothing
            )

    def _follow(self, step: int, loss: float) -> None:
        factor, patience = self.options.divergence_factor, self.options.divergence_steps
        first = math.isnan(self._loss)
        self._loss = loss if first else _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss
        self._best = min(self._best, self._loss)
        if first or not factor or self._loss <= factor * self._best:
            self._good = step
        elif step - self._good >= patience:
            raise TrainingStopped(
                f"the loss diverged: since step {self._good}, the last good one, it has been above "
                f"{factor:g} times its best, {self._best:.3f} (train.divergence_factor), and is "
                f"{self._loss:.3f} now",
                self._good,
            )
