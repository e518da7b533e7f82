"""What a new run starts from: random numbers, word vectors, or the weights of another run."""

import copy
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax

from transformer_jax import storage
from transformer_jax.config.checks import check_config
from transformer_jax.config.files import CONFIG_FILE, differences, load_config
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import OPTIONS, Config, flatten, set_option
from transformer_jax.console import log
from transformer_jax.data import word_vectors
from transformer_jax.errors import UserError
from transformer_jax.inference.weights import load_weights
from transformer_jax.model.size import parameter_shapes
from transformer_jax.training.prepared import Prepared
from transformer_jax.training.step import TrainState
from transformer_jax.workdir import manifest, parts


def inherit(config: Config, workdir: Path, given: Collection[str] = ()) -> Config:
    """`config` with the architecture and the vocabulary of the run that it starts from, if any.

    They replace those of `config`, with a line in the log. Once the run has begun they are in its
    own config.json, and the run that it started from may be gone.

    Args:
      config: the experiment.
      workdir: of the new run.
      given: names of options that the user has set and expects to hold.

    Raises:
      UserError: if train.start_from is no trained workdir, or `given` options disagree with it.
    """
    if not config.train.start_from:
        return config
    parent, begun = storage.path(config.train.start_from), (workdir / CONFIG_FILE).exists()
    if storage.absolute(str(parent)) == storage.absolute(str(workdir)):
        raise UserError(
            f"train.start_from={parent} is the --workdir itself: choose a new --workdir, which "
            "begins with its weights"
        )
    storage.check_workdir(parent)
    saved = load_config((workdir if begun else parent) / CONFIG_FILE)
    if not begun and not manifest.complete(parent / manifest.FOLDER):
        raise UserError(f"train.start_from={parent} has no checkpoint: train there first")
    fixed = [name for name, known in OPTIONS.items() if known.may_change == Change.NEVER]
    then, now = ({name: flatten(c)[name] for name in fixed} for c in (saved, config))
    differing = differences(then, now)
    wrong = [f"{n}={now[n]!r} (it has {then[n]!r})" for n in differing if n in given]
    if wrong:
        raise UserError(
            f"the model of {parent} (train.start_from) does not fit {', '.join(wrong)}: leave "
            f"{'these options' if len(wrong) > 1 else 'this option'} out"
        )
    found = copy.deepcopy(config)
    for name, (value, _) in differing.items():
        set_option(found, name, value)
    if differing and not begun:
        values = ", ".join(f"{name}={value!r}" for name, (value, _) in differing.items())
        log(f"the model and its vocabulary are those of {parent}: {values}")
    return check_config(found)


def begin(prepared: Prepared, state: TrainState) -> tuple[TrainState, dict[str, Any] | None]:
    """The state that a new run begins with, and which weights it has of another run, if any.

    Args:
      prepared: the run.
      state: freshly initialised.
    """
    if prepared.config.train.start_from:
        return _from_parent(prepared, state)
    return _from_word_vectors(prepared, state), None


def _from_parent(prepared: Prepared, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
    options, devices = prepared.config.train, prepared.devices
    parent = storage.path(options.start_from)
    params, steps = load_weights(
        parent,
        load_config(parent / CONFIG_FILE).train,
        options.start_weights,
        parameter_shapes(prepared.model),
        devices.data_parallel.replicated,
    )
    log(
        f"starting from {parent}: its {options.start_weights} weights, of step "
        f"{', '.join(map(str, steps))}"
    )
    lists = {step: parent / manifest.FOLDER / str(step) / manifest.NAME for step in steps}
    about = {
        "workdir": storage.absolute(str(parent)),
        "weights": options.start_weights,
        "steps": steps,
        "checkpoints": {str(step): manifest.sha256(path)[:16] for step, path in lists.items()},
        "tokenizer": parts.tokenizer_hashes(parent),
    }
    return devices.put_state(state.replace(params=params)), about


def _from_word_vectors(prepared: Prepared, state: TrainState) -> TrainState:
    """A new state, whose embeddings are word vectors if the experiment names some."""
    config, devices = prepared.config.model, prepared.devices
    if not config.pretrained_embeddings:
        return state
    params, summary = word_vectors.initialise(
        jax.device_get(devices.data_parallel.replicate(state.params)),
        storage.path(config.pretrained_embeddings),
        prepared.tokenizers,
        stddev=config.embedding_stddev or config.d_model**-0.5,
    )
    log(summary)
    return devices.put_state(state.replace(params=params))
