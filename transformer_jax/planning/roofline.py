"""Estimates of a training step's memory and time, from shapes and published speeds.

Everything here is arithmetic: nothing is compiled, and nothing was checked against a device.
Letters are the model's: B rows, S and T positions of source and target, D, N heads, F, V, L layers.
"""

import dataclasses
import math

from transformer_jax.config.options import Config
from transformer_jax.model.size import head_widths, step_flops
from transformer_jax.planning.accelerators import Accelerator
from transformer_jax.planning.collectives import Collective
from transformer_jax.training.step import chunks_of_loss, loss_chunk

# The share of a chip's peak that the matmuls are assumed to reach. PaLM reached 46 % on TPU v4
# (Chowdhery et al. 2022, section 4.1), with matrices 36 times as wide as the base model's.
EFFICIENCY = 0.4
_ADAM = 2  # moments of each parameter
_BACKWARD = 2 / 3  # the share of the matmuls' time that the backward pass takes


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip."""

    parameters: float
    optimizer_state: float  # Adam's two moments
    gradients: float
    accumulated: float  # the sum of the gradients of micro-batches, if there are several
    activations: float  # what the forward pass stores for the backward pass
    logits: float  # of a chunk of the positions; their gradient reuses the space
    chunks: int  # in how many the loss is computed

    @property
    def state(self) -> float:
        """What a step begins and ends with."""
        return self.parameters + self.optimizer_state

    @property
    def total(self) -> float:
        """The peak: the backward pass frees activations while it writes gradients."""
        return self.state + self.accumulated + max(self.activations + self.logits, self.gradients)


def estimate_memory(config: Config, parameters: float, chips: int) -> Memory:
    """The memory of one of the `chips` that share a batch, if it holds so many parameters."""
    d, c = config.data, config.model
    rows = d.batch_rows / (chips * config.train.accumulate)
    chunks = chunks_of_loss(int(rows), d.target_row_length, loss_chunk(config, chips))
    encoder, decoder = _layer_bytes(config)
    if c.remat:  # the input of each layer, and the inside of one layer
        positions = c.encoder_depth * d.source_row_length + c.decoder_depth * d.target_row_length
        activations = positions * c.d_model * _width(config) + max(encoder, decoder)
    else:
        activations = c.encoder_depth * encoder + c.decoder_depth * decoder
    return Memory(
        parameters=4 * parameters,
        optimizer_state=4 * _ADAM * parameters,
        gradients=4 * parameters,
        accumulated=4 * parameters if config.train.accumulate > 1 else 0,
        activations=rows * activations,
        logits=4 * rows * d.target_row_length * d.vocab_size / chunks,
        chunks=chunks,
    )


def memory_traffic(config: Config, memory: Memory) -> float:
    """The bytes that one chip reads and writes in a step; probably too few.

    The forward and the backward pass read the parameters; gradients are written and read; moments
    and parameters are read and written; activations, logits and the gradient of the logits are
    written once and read twice. Compilers fuse more or less of this.
    """
    state = 4 * memory.parameters + 2 * memory.gradients + 2 * memory.optimizer_state
    logits = memory.chunks * memory.logits
    return state + config.train.accumulate * (3 * memory.activations + 6 * logits)


def _width(config: Config) -> int:
    return 2 if config.model.compute_dtype == "bfloat16" else 4


def _layer_bytes(config: Config) -> tuple[int, int]:
    """The bytes per row that a layer of the encoder, and of the decoder, stores."""
    c, width, (key, value) = config.model, _width(config), head_widths(config)
    source, target = config.data.source_row_length, config.data.target_row_length
    # Per position: the sum that is normalised, the result, and which entries dropout keeps.
    residual = c.d_model * (2 * width + 1)

    def attention(queries: int, keys: int) -> int:
        # Queries, keys, values and heads; the softmax in float32, and the weights as the values.
        projected = width * c.num_heads * (queries + keys) * (key + value)
        weights = c.num_heads * queries * keys * (4 + width) if c.attention == "xla" else 0
        return projected + weights + queries * residual

    def feed_forward(positions: int) -> int:
        return positions * (width * c.d_ff + residual)

    return (
        attention(source, source) + feed_forward(source),
        attention(target, target) + attention(target, source) + feed_forward(target),
    )


@dataclasses.dataclass(frozen=True)
class Time:
    """The seconds of one step, estimated."""

    compute: float  # the matmuls, at EFFICIENCY of the peak
    memory: float  # `memory_traffic`
    exchange: float  # all collectives
    exposed: float  # the part of the exchange that overlaps with nothing, as compiled
    exposed_at_best: float  # that part, if the exchange overlapped with the backward pass

    @property
    def step(self) -> float:
        """The longer of compute and memory, plus the exposed exchange."""
        return max(self.compute, self.memory) + self.exposed

    @property
    def step_at_best(self) -> float:
        """The same, if the whole exchange overlapped with the backward pass."""
        return max(self.compute, self.memory) + self.exposed_at_best


def step_time(
    config: Config, accelerator: Accelerator, memory: Memory, exchanged: list[Collective]
) -> Time:
    """A step's roofline: the time that each resource of a chip takes by itself.

    `memory` is what one chip holds, `exchanged` the collectives of a step.
    """
    chip = accelerator.chip
    compute = step_flops(config)[1] / (EFFICIENCY * _peak(config, accelerator))
    reading = memory_traffic(config, memory) / chip.memory_speed
    backward = _BACKWARD * max(compute, reading)
    speed = chip.link_speed * accelerator.links or math.inf
    exchange = sum(c.sent for c in exchanged) / speed
    blocking = sum(c.sent for c in exchanged if not c.asynchronous) / speed
    return Time(
        compute=compute,
        memory=reading,
        exchange=exchange,
        exposed=max(blocking, exchange - backward),
        exposed_at_best=max(0.0, exchange - backward),
    )


def utilisation(config: Config, accelerator: Accelerator, step_seconds: float) -> float:
    """The model FLOPs' share of the chips' peak (MFU)."""
    return step_flops(config)[0] / (step_seconds * _peak(config, accelerator))


def _peak(config: Config, accelerator: Accelerator) -> float:
    chip = accelerator.chip
    bfloat16 = config.model.compute_dtype == "bfloat16"
    return (chip.bfloat16_flops if bfloat16 else chip.float32_flops) * accelerator.num_chips
