"""A step that was skipped, computed again row by row: which rows and parameters are not finite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from transformer_jax.config.checks import check_config
from transformer_jax.config.files import CONFIG_FILE, load_config
from transformer_jax.config.options import PAD_ID, Config
from transformer_jax.console import log
from transformer_jax.data.packing import Batch
from transformer_jax.errors import UserError
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.devices import choose_devices
from transformer_jax.training.prepared import prepare
from transformer_jax.training.run import load_text, saved_config
from transformer_jax.training.start import begin
from transformer_jax.training.step import TrainState, dropout_of, make_loss
from transformer_jax.workdir.checkpoints import restore_before

_SHOWN = 5  # rows


def replay_step(config: Config, workdir: Path, step: int) -> str:
    """The report on one step (see `report`), from the state that it started from.

    That state is recomputed from the last checkpoint before the step, or from the beginning.

    Raises:
      UserError: if the workdir does not hold this experiment, or the step is none of its steps.
    """
    check_config(config)
    if saved_config(config, workdir) is None:
        load_config(workdir / CONFIG_FILE)  # raises: it is not a workdir
    if not 1 <= step <= config.train.steps:
        raise UserError(f"--step={step} is none of 1 … train.steps={config.train.steps}")
    read, held_out = load_text(config, workdir)
    devices = choose_devices(config)
    prepared = prepare(config, workdir, devices, read, held_out["valid"], resuming=True)
    data, state = prepared.data, prepared.create_state()
    new, state = state, restore_before(workdir, step, state)
    if state is new:
        state, _ = begin(prepared, new)
    first_step = int(state.step)
    if first_step < step - 1:
        log(f"recomputing steps {first_step + 1} to {step - 1}")
    train_step = prepared.compile_step()
    state, batches = devices.to_step(state), prepared.batches(first_step)
    for _ in range(first_step, step - 1):
        state, _ = train_step(state, next(batches))
    state = jax.device_get(devices.data_parallel.replicate(devices.from_step(state)))
    pairs, corpus = data.batch_pairs(step - 1), read()
    texts = lambda row: " | ".join(" → ".join(corpus.pairs[n]) for n in pairs[row])  # noqa: E731
    return report(config, prepared.model, state, data.batch(step - 1), texts)


def report(
    config: Config,
    model: Transformer,
    state: TrainState,
    batch: Batch,
    texts: Callable[[int], str],
) -> str:
    """A table of a step's rows, and the parameters and gradients that are not finite.

    Args:
      config: decides the kind of random numbers, as in the step.
      model: the model.
      state: before the step, on one device.
      batch: all rows of the step.
      texts: returns the text of a row.
    """
    loss = lambda *arguments: make_loss(model)(*arguments)[0]  # noqa: E731
    loss_and_gradient = jax.jit(jax.value_and_grad(loss))
    rows: list[tuple[float, float, int]] = []
    broken: dict[str, int] = {}
    for number in range(len(batch["row"])):
        row = jax.tree.map(lambda x, n=number: jnp.asarray(x[n : n + 1]), batch)
        h, dropout = state.hyperparameters, dropout_of(config, state, row)
        loss_sum, gradient = loss_and_gradient(
            state.params, row, h.label_smoothing, dropout, h.r_drop
        )
        tokens = max(int(np.sum(batch["labels"][number] != PAD_ID)), 1)
        norm = float(optax.tree.norm(gradient))
        rows.append((float(loss_sum) / tokens, norm / tokens, number))
        for name, count in _not_finite(gradient).items():
            broken[name] = max(broken.get(name, 0), count)
    bad = [row for row in rows if not np.isfinite(row[:2]).all()]
    shown = bad or sorted(rows, key=lambda row: -row[1])
    lines = [
        f"step {int(state.step) + 1}: {len(bad)} of {len(rows)} rows are not finite"
        + (" (with other dropout masks: train.rng=rbg)" if config.train.rng == "rbg" else "")
        + ("" if bad else " here; the rows with the largest gradients:"),
        "row  loss per token  gradient norm per token  text",
        *(f"{n:3}  {loss:14.4f}  {g:23.4f}  {texts(n)}" for loss, g, n in shown[:_SHOWN]),
    ]
    if len(bad) > _SHOWN:
        lines.append(f"… and {len(bad) - _SHOWN} more: {', '.join(str(r[2]) for r in bad)}")
    if wrong := _not_finite(state.params):
        lines.append(f"parameters not finite before the step: {', '.join(wrong)}")
    if broken:
        counts = ", ".join(f"{name} ({count:,})" for name, count in broken.items())
        lines.append(f"parameters whose gradient is not finite (elements, in one row): {counts}")
    return "\n".join(lines)


def _not_finite(tree: Any) -> dict[str, int]:
    """The number of elements that are not finite in each array that has some, by its path."""
    counts = {
        jax.tree_util.keystr(path, simple=True, separator="/"): int(np.sum(~np.isfinite(array)))
        for path, array in jax.tree_util.tree_leaves_with_path(tree)
    }
    return {name: count for name, count in counts.items() if count}
