"""Which checkpoints a model is made of: their mean, the latest one, or the best one."""

from pathlib import Path
from typing import Any

import jax

from transformer_jax.config.options import WEIGHTS, TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.workdir import checkpoints, manifest
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
        6.1); "latest"; or "best" by validation BLEU.
      like: parameters or their shapes.
      sharding: where to put them.

    Raises:
      UserError: without a checkpoint, or without one that was evaluated for "best"; or if they
        are damaged, or of another model.
    """
    steps = _choose(workdir, options, weights)
    total = None
    for step in steps:
        params = checkpoints.restore_params(workdir, step, like, sharding)
        total = params if total is None else jax.tree.map(lambda a, b: a + b, total, params)
    return jax.tree.map(lambda x: x / len(steps), total), steps


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
    if weights == "average":
        steps = checkpoints.regular(steps, options.checkpoint_every)
    if weights == "best":
        steps = checkpoints.by_score(steps, bleu_scores(workdir))
        if not steps:
            raise UserError(
                f"{workdir} has no evaluated checkpoint: use --weights=average, or train with "
                "train.evaluate_every"
            )
    number = options.average_checkpoints if weights == "average" else 1
    found = checkpoints.undamaged(workdir, steps, number, below="params/")
    if not found:
        raise UserError(f"every checkpoint of {workdir} is damaged: see the warnings")
    return found
