"""Stops a training that has gone wrong: steps that are not finite, a loss that diverges."""

import dataclasses
import math
from collections.abc import Callable

from transformer_jax.config.options import TrainConfig
from transformer_jax.training.step import FINITE

_SMOOTHING = 0.99  # of the loss: a time constant of 100 steps


class TrainingStopped(ArithmeticError):
    """Further training would be wasted; the message has the reason and the last good step.

    Attributes:
      good_until: a checkpoint of this step or an earlier one is good.
    """

    def __init__(self, reason: str, good_until: int) -> None:
        super().__init__(reason)
        self.good_until = good_until


@dataclasses.dataclass
class Health:
    """Checks the metrics of each step, in order. A run that resumes starts from scratch.

    Attributes:
      options: train.max_skipped, divergence_factor and divergence_steps.
      on_skip: called with (step, reason) for a step that was skipped; returns a hint for the user.
      skipped: the number of steps skipped so far; initially, those of earlier starts of the run.
    """

    options: TrainConfig
    on_skip: Callable[[int, str], str]
    skipped: int = 0

    _skipped_in_a_row: int = 0
    _loss: float = math.nan
    _best: float = math.inf
    _good: int = 0  # the last step whose smoothed loss was near its best

    def check(self, step: int, metrics: dict[str, float]) -> None:
        """Checks the metrics of a step.

        Raises:
          TrainingStopped: after `max_skipped` consecutive skipped steps, or `divergence_steps`
            consecutive steps whose smoothed loss exceeds `divergence_factor` times its best.
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
        hint = self.on_skip(step, reason)
        if self._skipped_in_a_row >= self.options.max_skipped:
            good = step - self._skipped_in_a_row
            raise TrainingStopped(
                f"{self._skipped_in_a_row} steps in a row were skipped, the last because its "
                f"{reason} (train.max_skipped); the last good step is {good}; {hint}",
                step,  # the skipped steps changed nothing
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
                f"the loss diverged: since step {self._good}, the last good one, it has exceeded "
                f"{factor:g} times its best value, {self._best:.3f} (train.divergence_factor); it "
                f"is {self._loss:.3f} now",
                self._good,
            )
