"""A step that was skipped, once more and slowly: which rows and parameters are not finite."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from transformer_jax import storage
from transformer_jax.config.options import PAD_ID, Config
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.packing import Batch
from transformer_jax.errors import UserError
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel import processes
from transformer_jax.storage import write_whole
from transformer_jax.training.step import TrainState, dropout_of, make_loss

FOLDER = "skipped"
_SHOWN = 5  # rows
_KEPT = 100  # batches: a run that skips on and on should not fill the disk


def write_batch(
    workdir: Path, step: int, data: PackedDataset, pairs: Sequence[tuple[str, str]]
) -> str:
    """Writes the text of a step's batch to `skipped/step_N.tsv`, and says how to look closer.

    Args:
      workdir: of the run.
      step: counted from 1.
      data: the batches.
      pairs: the text that they were packed from.
    """
    # Packed pairs are numbered as the corpus is: both come from the same list.
    rows = data.batch_pairs(step - 1)
    path = workdir / FOLDER / f"step_{step}.tsv"
    closer = f"--mode=replay --step={step} looks at them"
    count = f"the {sum(map(len, rows))} pairs of its batch"
    if processes.is_writer():
        try:
            storage.make_folder(path.parent)
            there = path.parent.iterdir() if path.parent.exists() else []
            if len(list(there)) >= _KEPT:
                return f"{path.parent} has {_KEPT} batches, and {count} are not added; {closer}"
            text = [(str(row), *pairs[n]) for row, numbers in enumerate(rows) for n in numbers]
            write_whole(path, "".join("\t".join(columns) + "\n" for columns in text))
        except (UserError, OSError) as e:  # a full disk is no reason to stop
            return f"{e}, where {count} should be; {closer}"
    return f"{count}, after their rows' numbers, are in {path}, and {closer}"


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
