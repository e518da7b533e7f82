"""Which checkpoints a model is made of: their mean, the latest one, or the best one."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer_jax.config.options import WEIGHTS, TrainConfig
from transformer_jax.console import log
from transformer_jax.errors import UserError
from transformer_jax.workdir import average, checkpoints, manifest
from transformer_jax.workdir.metrics import bleu_scores


def load_weights(
    workdir: Path, options: TrainConfig, weights: str, like: Any, sharding: jax.sharding.Sharding
) -> tuple[Any, list[int]]:
    """The parameters to translate with, and the steps of the checkpoints that they come from.

    A damaged checkpoint is named in a warning, and the ones before it are used.

    Args:
      workdir: a trained one.
      options: how many checkpoints are averaged, and which of them are regular ones.
      weights: "average", the mean of the last regular checkpoints (Vaswani et al. 2017, section
        6.1) or of those that validation chose (train.choose_average); "latest"; or "best" by
        validation BLEU.
      like: parameters or their shapes.
      sharding: where to put them.

    Raises:
      UserError: without a checkpoint, or without one that was evaluated for "best"; or if they
        are damaged, or of another model.
    """
    steps = _choose(workdir, options, weights)
    return mean_weights(workdir, steps, like, sharding), steps


def mean_weights(
    workdir: Path, steps: Sequence[int], like: Any, sharding: jax.sharding.Sharding
) -> Any:
    """The mean of the parameters of some checkpoints, which are not verified."""
    restored = (checkpoints.restore_params(workdir, step, like, sharding) for step in steps)
    total = functools.reduce(_add, restored)
    return _divide(total, np.float32(len(steps))) if len(steps) > 1 else total


# Of whole trees: one program each, and not one for each shape.
@jax.jit
def _add(total: Any, params: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b, total, params)


@jax.jit
def _divide(total: Any, number: Any) -> Any:
    return jax.tree.map(lambda x: x / number, total)


def load_step(workdir: Path, step: int, like: Any) -> Any:
    """The parameters of one checkpoint, placed as `like`.

    Raises:
      UserError: if there is no such checkpoint, or it is damaged, or of another model.
    """
    steps = checkpoint_steps(workdir)
    if step not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"{workdir} has no checkpoint of step {step}; it has those of {known}")
    if not checkpoints.undamaged(workdir, [step], 1, below="params/"):
        raise UserError(f"the checkpoint of step {step} in {workdir} is damaged: see the warnings")
    return checkpoints.restore_params(workdir, step, like, jax.tree.leaves(like)[0].sharding)


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints of `workdir`, ascending."""
    return manifest.complete(workdir / manifest.FOLDER)


def _choose(workdir: Path, options: TrainConfig, weights: str) -> list[int]:
    """The steps to use, ascending."""
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights!r} is none of: {', '.join(WEIGHTS)}")
    steps = checkpoint_steps(workdir)
    if not steps:
        raise UserError(f"{workdir} has no checkpoint: train there first")
    number = options.average_checkpoints if weights == "average" else 1
    if weights == "average":
        chosen = average.chosen(workdir, steps)
        if chosen and not options.choose_average:
            log(f"{workdir}: the average that validation chose is not used: train.choose_average")
            chosen = []
        number = len(chosen) or number
        steps = chosen or checkpoints.regular(steps, options.checkpoint_every)
    if weights == "best":
        steps = checkpoints.by_score(steps, bleu_scores(workdir))
        if not steps:
            raise UserError(
                f"{workdir} has no evaluated checkpoint: use --weights=average, or train with "
                "train.evaluate_every"
            )
    found = checkpoints.undamaged(workdir, steps, number, below="params/")
    if not found:
        raise UserError(f"every checkpoint of {workdir} is damaged: see the warnings")
    return found
