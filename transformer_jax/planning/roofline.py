"""What a training step costs, from shapes alone: operations, memory, exchange, and the time of it.

The letters are the model's: B rows, S and T positions of source and target, D, N heads of width H
(keys) and Hv (values), F, V, L layers. Everything here is arithmetic; nothing is compiled.
"""

import dataclasses
import re

from transformer_jax.config.options import Config
from transformer_jax.model.size import head_widths, step_flops
from transformer_jax.planning.accelerators import Accelerator

# What share of a chip's peak the matmuls are assumed to reach while they run. Nothing here was
# measured: PaLM reached 46 % of the peak on TPU v4 (Chowdhery et al. 2022, section 4.1), with
# matrices 36 times as wide as the base model's.
EFFICIENCY = 0.4
_ADAM = 2  # moments of each parameter
# Of the time that the matmuls take, the share of the backward pass.
_BACKWARD = 2 / 3


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one chip.

    Attributes:
      parameters: float32.
      optimizer_state: Adam's two moments.
      gradients: float32.
      accumulated: the sum of the gradients of micro-batches, if there are several.
      activations: what the forward pass keeps for the backward pass.
      logits: float32; their gradient takes their place.
    """

    parameters: float
    optimizer_state: float
    gradients: float
    accumulated: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """At the worst moment: gradients come while the backward pass frees activations."""
        worst = max(self.activations + self.logits, self.gradients)
        return self.parameters + self.optimizer_state + self.accumulated + worst


def estimate_memory(config: Config, parameters: float, rows: float) -> Memory:
    """An estimate for one chip.

    Args:
      config: the experiment.
      parameters: numbers that the chip holds.
      rows: of the batch, that it computes at once.
    """
    d, c = config.data, config.model
    positions = rows * (d.source_row_length + d.target_row_length)
    if c.remat:  # what enters each layer, and the inside of one
        kept = c.num_layers * positions * c.d_model * _width(config)
        inside = max(_encoder_layer_bytes(config), _decoder_layer_bytes(config)) * rows
        activations = kept + inside
    else:
        layer = _encoder_layer_bytes(config) + _decoder_layer_bytes(config)
        activations = c.num_layers * layer * rows
    return Memory(
        parameters=4 * parameters,
        optimizer_state=4 * _ADAM * parameters,
        gradients=4 * parameters,
        accumulated=4 * parameters if config.train.accumulate > 1 else 0,
        activations=activations,
        logits=4 * rows * d.target_row_length * d.vocab_size,
    )


def memory_traffic(config: Config, memory: Memory) -> float:
    """Bytes that one chip reads and writes in a step: an estimate, and rather too low.

    Compilers fuse more or less, and their own count depends on that. Parameters are read by the
    forward and the backward pass, gradients written and read, moments and parameters read and
    written; activations written once and read twice, and so are logits and their gradient.
    """
    state = 4 * memory.parameters + 2 * memory.gradients + 2 * memory.optimizer_state
    return state + config.train.accumulate * (3 * memory.activations + 6 * memory.logits)


def _width(config: Config) -> int:
    return 2 if config.model.compute_dtype == "bfloat16" else 4


def _attention_bytes(config: Config, queries: int, keys: int) -> int:
    """Of one row: queries, keys, values, heads, the output's dropout, and the weights if stored."""
    c, width = config.model, _width(config)
    key, value = head_widths(config)
    projected = width * c.num_heads * (queries * (key + value) + keys * (key + value))
    # The softmax in float32, and the weights in the dtype of the values.
    weights = c.num_heads * queries * keys * (4 + width) if c.attention == "xla" else 0
    return projected + weights + _residual_bytes(config, queries)


def _feed_forward_bytes(config: Config, positions: int) -> int:
    return _width(config) * positions * config.model.d_ff + _residual_bytes(config, positions)


def _residual_bytes(config: Config, positions: int) -> int:
    """The sum that is normalised, the result, and which entries dropout keeps."""
    return positions * config.model.d_model * (2 * _width(config) + 1)


def _encoder_layer_bytes(config: Config) -> int:
    source = config.data.source_row_length
    return _attention_bytes(config, source, source) + _feed_forward_bytes(config, source)


def _decoder_layer_bytes(config: Config) -> int:
    source, target = config.data.source_row_length, config.data.target_row_length
    attention = _attention_bytes(config, target, target) + _attention_bytes(config, target, source)
    return attention + _feed_forward_bytes(config, target)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between chips, or several alike.

    Attributes:
      kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all" or "collective-permute".
      size: bytes of its result on one chip; of the argument of a reduce-scatter.
      group: chips that exchange with each other.
      asynchronous: whether the program goes on with other work meanwhile.
      times: how often it happens in a step.
    """

    kind: str
    size: float
    group: int
    asynchronous: bool = False
    times: int = 1

    @property
    def sent(self) -> float:
        """Bytes that each chip sends in a step, by the algorithms that send least.

        >>> Collective("all-reduce", size=100, group=4).sent
        150.0
        """
        if self.kind == "collective-permute":
            return self.times * self.size
        passes = 2 if self.kind == "all-reduce" else 1
        return self.times * passes * self.size * (self.group - 1) / self.group


_COLLECTIVE = re.compile(
    r"= (?P<type>\(.*?\)|\S+) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all"
    r"|collective-permute)(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8}


def collectives(program: str, *, chips: int, loops: int = 1) -> list[Collective]:
    """The exchanges in the text of a compiled program, those that are alike together.

    >>> collectives(
    ...     "%x = f32[3,5]{1,0} all-reduce(%y), replica_groups=[2,4]<=[8], to_apply=%add", chips=8
    ... )
    [Collective(kind='all-reduce', size=60, group=4, asynchronous=False, times=1)]

    Args:
      program: `compiled.as_text()`.
      chips: that run it.
      loops: how often the body of a loop runs.
    """
    bodies = set(re.findall(r"\bbody=%?([\w.-]+)", program))
    found: dict[tuple, int] = {}
    times = 1
    for line in program.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if header:
            times = loops if header[1] in bodies else 1
        match = _COLLECTIVE.search(line)
        if not match:
            continue
        sizes = [_size(*array) for array in _ARRAY.findall(match["type"])]
        size = sum(sizes)
        group = _group(line, chips)
        if match["start"] and match["kind"] in ("all-gather", "collective-permute"):
            size = max(sizes)  # its type lists the argument, too
        if match["kind"] == "reduce-scatter":
            size *= group
        key = match["kind"], size, group, bool(match["start"])
        found[key] = found.get(key, 0) + times
    return [Collective(*key, number) for key, number in found.items() if key[2] > 1]


def _size(dtype: str, shape: str) -> int:
    elements = 1
    for n in filter(None, shape.split(",")):
        elements *= int(n)
    return _BYTES.get(dtype, 1) * elements


def _group(line: str, chips: int) -> int:
    """Chips in a group: of "{{0,1},{2,3}}", "[2,4]<=[8]" or "mesh['a'=8,'b'=2] {'a'}"."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        group = 1
        for axis in re.findall(r"'(\w+)'", mesh[2]):
            group *= int(sizes[axis])
        return group
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(iota[1])
    return chips


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds of one step.

    Attributes:
      compute: the matmuls, at EFFICIENCY of the peak.
      memory: reading and writing the chip's memory, at its published speed.
      exchange: all collectives, at the published speed of the links.
      exposed: the part of it during which nothing else happens, as the program is compiled.
      exposed_at_best: that part if all of it ran beside the backward pass.
    """

    compute: float
    memory: float
    exchange: float
    exposed: float
    exposed_at_best: float

    @property
    def step(self) -> float:
        """The longer of compute and memory, and what is exposed of the exchange."""
        return max(self.compute, self.memory) + self.exposed

    @property
    def step_at_best(self) -> float:
        """The same, with the exchange beside the backward pass."""
        return max(self.compute, self.memory) + self.exposed_at_best


def step_time(
    config: Config, accelerator: Accelerator, traffic: float, exchanged: list[Collective]
) -> Time:
    """The roofline: what each resource of the chip would take for a step by itself.

    Args:
      config: the experiment.
      accelerator: its chips' published figures.
      traffic: bytes that one chip reads and writes.
      exchanged: the collectives of a step.
    """
    chip = accelerator.chip
    compute = step_flops(config)[1] / (EFFICIENCY * _peak(config, accelerator))
    memory = traffic / chip.memory_speed
    backward = _BACKWARD * max(compute, memory)
    speed = chip.link_speed * accelerator.links
    blocking = sum(c.sent for c in exchanged if not c.asynchronous) / speed if speed else 0.0
    beside = sum(c.sent for c in exchanged if c.asynchronous) / speed if speed else 0.0
    return Time(
        compute=compute,
        memory=memory,
        exchange=blocking + beside,
        exposed=blocking + max(0.0, beside - backward),
        exposed_at_best=max(0.0, blocking + beside - backward),
    )


def utilisation(config: Config, accelerator: Accelerator, step_seconds: float) -> float:
    """The share of the chips' peak that the model's own operations are (MFU)."""
    return step_flops(config)[0] / (step_seconds * _peak(config, accelerator))


def _peak(config: Config, accelerator: Accelerator) -> float:
    chip = accelerator.chip
    bfloat16 = config.model.compute_dtype == "bfloat16"
    return (chip.bfloat16_flops if bfloat16 else chip.float32_flops) * accelerator.num_chips
