"""What a new run starts from: random numbers, word vectors, or the weights of another run."""

from pathlib import Path
from typing import Any

import jax

from transformer_jax import storage
from transformer_jax.config.files import CONFIG_FILE, load_config
from transformer_jax.console import log
from transformer_jax.data import word_vectors
from transformer_jax.inference.weights import load_weights
from transformer_jax.model.size import parameter_shapes
from transformer_jax.training.prepared import Prepared
from transformer_jax.training.step import TrainState
from transformer_jax.workdir import manifest, parts
from transformer_jax.workdir.inheritance import parent_of


def begin(prepared: Prepared, state: TrainState) -> tuple[TrainState, dict[str, Any] | None]:
    """The state that a new run begins with, and which weights it has of another run, if any.

    Args:
      prepared: the run.
      state: freshly initialised.
    """
    if parent := parent_of(prepared.config):
        return _from_parent(prepared, state, parent)
    return _from_word_vectors(prepared, state), None


def _from_parent(
    prepared: Prepared, state: TrainState, parent: Path
) -> tuple[TrainState, dict[str, Any]]:
    options, devices = prepared.config.train, prepared.devices
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
