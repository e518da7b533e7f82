"""The training step on another machine: compiled for a TPU or CPU, estimated for a GPU."""

import dataclasses
import importlib.util
import math
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax.experimental import topologies

from transformer_jax.config.options import Config
from transformer_jax.console import log
from transformer_jax.data.packing import pack
from transformer_jax.data.tokens import TokenizedPairs
from transformer_jax.errors import UserError
from transformer_jax.model.size import count_parameters, parameter_shapes
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel import layout
from transformer_jax.parallel.devices import choose_devices
from transformer_jax.planning import roofline
from transformer_jax.planning.accelerators import Accelerator
from transformer_jax.planning.collectives import Collective, collectives
from transformer_jax.training.step import create_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step on one chip, compiled or estimated."""

    devices: str  # human-readable: the devices and the strategy
    origin: str  # human-readable: where memory and exchange come from
    memory: dict[str, float]  # bytes by what they hold
    estimate: roofline.Memory  # the same, estimated from shapes
    exchanged: list[Collective]

    @property
    def total(self) -> float:
        """All bytes on the chip."""
        return sum(self.memory.values())


class OutOfMemory(Exception):
    """The step does not fit on a chip; the message gives both sizes."""


def compile_program(config: Config, accelerator: Accelerator) -> Program:
    """Compiles the training step for an accelerator with the accelerator's own compiler.

    Raises:
      OutOfMemory: if the compiler cannot fit it.
      UserError: if the compiler is missing, or the batch does not divide by the chips.
    """
    devices = choose_devices(config, compile_for=_compile_for(accelerator))
    model = Transformer(config.model, config.data.vocab_size)
    step = devices.compile_step(partial(make_train_step, config, model))
    state = jax.eval_shape(lambda: create_state(config, model))
    place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    state = jax.tree.map(place, state, devices.shardings(state))
    held = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(state.params))
    log(f"compiling for {devices.description} …")
    try:
        compiled = step.lower(state, devices.batch_shapes(batch_shapes(config))).compile()
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise OutOfMemory(str(e).splitlines()[0].partition(": ")[2]) from None
    found, chips = compiled.memory_analysis(), devices.mesh.size
    estimate = roofline.estimate_memory(config, held, chips)
    made = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    given = found.generated_code_size_in_bytes + found.argument_size_in_bytes
    return Program(
        devices.description,
        f"compiled for {accelerator.name}",
        _memory(estimate, made) | {"program and batch": given - estimate.state},
        estimate,
        collectives(compiled.as_text(), chips=chips, loops=config.train.accumulate),
    )


def estimate_program(config: Config, accelerator: Accelerator) -> Program:
    """Estimates the training step of replicas from shapes alone.

    Raises:
      UserError: if the experiment is not one of replicas, or its batch does not divide by them.
    """
    if layout.strategy_of(config.parallel, accelerator.num_chips) == "mesh":
        raise UserError(
            f"--accelerator={accelerator.name} is planned from shapes, as replicas: "
            "give parallel.strategy=auto, parallel.fsdp=1 and parallel.tensor=1"
        )
    chips = accelerator.num_chips
    layout.check_batch(config, chips)
    model = Transformer(config.model, config.data.vocab_size)
    parameters = count_parameters(parameter_shapes(model))
    estimate = roofline.estimate_memory(config, parameters, chips)
    return Program(
        f"{chips} {accelerator.chip.name} device{'s' if chips > 1 else ''}, replicas",
        "estimated from shapes, not compiled",
        _memory(estimate, estimate.total - estimate.state),
        estimate,
        [Collective("all-reduce", 4 * parameters, chips)] if chips > 1 else [],  # gradients
    )


def _memory(estimate: roofline.Memory, made: float) -> dict[str, float]:
    """The bytes of the state, and those that a step `made`."""
    return {
        "parameters": estimate.parameters,
        "optimiser state": estimate.optimizer_state,
        "activations, gradients, logits": made,
    }


def batch_shapes(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a global batch."""
    data, nothing = config.data, np.zeros(0, np.int32)
    start = np.zeros(1, np.int64)
    row = pack(
        TokenizedPairs(nothing, nothing, start, start),
        [nothing],
        source_row_length=data.source_row_length,
        target_row_length=data.target_row_length,
    )
    row |= {"row": np.zeros(1, np.int32)}
    return {
        name: jax.ShapeDtypeStruct((data.batch_rows, *x.shape[1:]), x.dtype)
        for name, x in row.items()
    }


def _compile_for(accelerator: Accelerator) -> Sequence[jax.Device]:
    if accelerator.platform == "cpu":
        return jax.devices()
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--accelerator={accelerator.name} needs the compiler for TPUs, which needs no TPU: "
            'pip install "jax[tpu]"'
        )
    return topologies.get_topology_desc(**accelerator.topology).devices
