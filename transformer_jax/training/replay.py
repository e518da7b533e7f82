"""A step that was skipped, once more and slowly: which rows and parameters are not finite."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from transformer_jax.config.options import PAD_ID, Config
from transformer_jax.data.packing import Batch
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.step import TrainState, dropout_of, make_loss

_SHOWN = 5  # rows


def report(
    config: Config,
    model: Transformer,
    state: TrainState,
    batch: Batch,
    texts: Callable[[int], str],
) -> str:
    """What each row and each parameter of a step's loss and gradient is; for a person.

    Args:
      config: reads the random numbers' kind, as the step did.
      model: the model.
      state: as it was before the step, on one device.
      batch: of the step, all rows of it.
      texts: the text of a row.
    """
    loss_and_gradient = jax.jit(
        jax.value_and_grad(
            lambda params, row, smoothing, dropout: make_loss(model)(
                params, row, smoothing, dropout
            )[0]
        )
    )
    rows, broken = [], {}
    for number in range(len(batch["row"])):
        row = jax.tree.map(lambda x, n=number: jnp.asarray(x[n : n + 1]), batch)
        dropout = dropout_of(config, state, row)
        smoothing = state.hyperparameters.label_smoothing
        loss, gradient = loss_and_gradient(state.params, row, smoothing, dropout)
        tokens = max(int(np.sum(batch["labels"][number] != PAD_ID)), 1)
        rows.append((float(loss) / tokens, float(optax.tree.norm(gradient)) / tokens, number))
        for path, g in jax.tree_util.tree_leaves_with_path(gradient):
            wrong = int(np.sum(~np.isfinite(g)))
            if wrong:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                broken[name] = max(broken.get(name, 0), wrong)
    bad = [row for row in rows if not np.isfinite(row[:2]).all()]
    shown = bad or sorted(rows, key=lambda row: -row[1])
    lines = [
        f"step {int(state.step) + 1}: {len(bad)} of {len(rows)} rows are not finite"
        + (" (with other dropout masks: train.rng=rbg)" if config.train.rng == "rbg" else "")
        + ("" if bad else ", here; those of the largest gradients:"),
        "row  loss per token  gradient norm per token  text",
        *(f"{n:3}  {loss:14.4f}  {g:23.4f}  {texts(n)}" for loss, g, n in shown[:_SHOWN]),
    ]
    if len(bad) > _SHOWN:
        lines.append(f"… and {len(bad) - _SHOWN} more: {', '.join(str(r[2]) for r in bad)}")
    wrong_params = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, x in jax.tree_util.tree_leaves_with_path(state.params)
        if not np.isfinite(x).all()
    ]
    if wrong_params:
        lines.append(f"parameters not finite before the step: {', '.join(wrong_params)}")
    if broken:
        lines.append(
            "parameters whose gradient is not finite (numbers at most, in one row): "
            + ", ".join(f"{name} ({count:,})" for name, count in broken.items())
        )
    return "\n".join(lines)
