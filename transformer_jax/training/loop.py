"""The training loop, which never waits for the device."""

from collections.abc import Callable, Iterator
from typing import Any

import jax

from transformer_jax.training.step import Batch, Metrics, TrainState


def run_steps(
    state: TrainState,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    batches: Iterator[Batch],
    *,
    first_step: int,
    num_steps: int,
    on_metrics: Callable[[int, dict[str, Any]], None],
    pauses_at: Callable[[int], bool],
    on_pause: Callable[[int, TrainState], Any],
) -> TrainState:
    """Runs steps first_step + 1 … num_steps. Never waits for the step it has just dispatched.

    Args:
      state: after `first_step` updates; donated.
      train_step: compiled.
      batches: the batch of each step, on the devices.
      first_step: updates made so far.
      num_steps: updates to have been made at the end.
      on_metrics: called with a step and its metrics, one step late.
      pauses_at: whether to pause after a step.
      on_pause: called then, with the step and its state: to evaluate it, to save it. The metrics
        of every step so far have been read, so nothing is in flight on the devices. The steps end
        early if it returns true.

    Returns:
      The last state.
    """

    def read(step: int, metrics: Metrics) -> None:
        on_metrics(step, {name: float(x) for name, x in jax.device_get(metrics).items()})

    pending: tuple[int, Metrics] | None = None
    for step in range(first_step + 1, num_steps + 1):
        state, metrics = train_step(state, next(batches))
        if pending:
            read(*pending)
        pending = step, metrics
        if pauses_at(step):
            read(*pending)
            pending = None
            if on_pause(step, state):
                break
    if pending:
        read(*pending)
    return state
