"""What an experiment needs on a machine that is not here: `--mode=plan`.

For a TPU, libtpu compiles the training step as it would there, without one; for this machine's CPU,
jax does. What memory and exchange the program takes is then read off it. Operations are counted
from shapes, and time follows from the chip's published figures: nothing runs.
"""

import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from transformer_jax.config.checks import check_config
from transformer_jax.config.options import Config
from transformer_jax.console import log
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.packing import pack, plan_packing
from transformer_jax.data.tokens import TokenizedPairs
from transformer_jax.errors import UserError
from transformer_jax.model import size as model_size
from transformer_jax.model.size import count_parameters, parameter_shapes
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel import layout
from transformer_jax.parallel.devices import choose_devices
from transformer_jax.planning import accelerators, roofline
from transformer_jax.planning.accelerators import Accelerator
from transformer_jax.training.prepared import DATA_FILE
from transformer_jax.training.step import create_state, make_train_step

# Share of positions that are not padding, where no workdir tells: what packing gives (README.md).
ASSUMED_REAL_SHARE = 0.95


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step on one chip, compiled or estimated.

    Attributes:
      devices: what it is for, for a person.
      origin: where memory and exchange come from, for a person.
      memory: bytes by what they are for.
      estimate: of the same from shapes.
      exchanged: the collectives.
    """

    devices: str
    origin: str
    memory: dict[str, float]
    estimate: roofline.Memory
    exchanged: list[roofline.Collective]

    @property
    def total(self) -> float:
        """Bytes in all."""
        return sum(self.memory.values())


Make = Callable[[Config, Accelerator], Program]


class OutOfMemory(Exception):
    """The step does not fit: by how much."""


def plan(config: Config, name: str, *, workdir: Path, chip_hour_price: float | None) -> str:
    """The report on training `config` on the accelerator called `name`.

    Args:
      config: the experiment.
      name: of the accelerator: v5litepod-16, v4-64, h100, cpu, ….
      workdir: if it holds packed text, the share of padding is its.
      chip_hour_price: what an hour of a chip costs, in any currency; None = no cost.

    Raises:
      UserError: if there is no such accelerator, the batch does not divide by its chips, or the
        compiler is missing.
    """
    check_config(config)
    accelerator = accelerators.find(name)
    if accelerator.platform == "cpu":
        accelerator = _this_machine(accelerator)
    layout.check_attention(config, accelerator.platform, name)
    if config.parallel.strategy == "single" and accelerator.num_chips > 1:
        raise UserError(
            f"parallel.strategy='single' would leave all but one of the {accelerator.num_chips} "
            f"chips of {name} idle: name a smaller accelerator, or give parallel.strategy=auto"
        )
    make = _estimate if accelerator.platform == "gpu" else _compile
    try:
        program = _fitting(config, accelerator, make)
    except OutOfMemory as e:
        return _too_large(config, accelerator, make, str(e))
    share = real_share(config, workdir)
    return report(config, accelerator, program, real=share, chip_hour_price=chip_hour_price)


def _fitting(config: Config, accelerator: Accelerator, make: Make) -> Program:
    """What `make` makes; raises OutOfMemory if the chip is too small for it."""
    program = make(config, accelerator)
    if program.total > accelerator.chip.memory:
        has = f"{_bytes(program.total)} of {_bytes(accelerator.chip.memory)}"
        raise OutOfMemory(f"it needs {has} ({program.origin})")
    return program


def _too_large(config: Config, accelerator: Accelerator, make: Make, problem: str) -> str:
    rows = config.data.batch_rows

    def fits(rows: int) -> bool:
        log(f"does data.batch_rows={rows} fit? …")
        smaller = dataclasses.replace(config, data=dataclasses.replace(config.data))
        smaller.data.batch_rows = rows
        try:
            _fitting(smaller, accelerator, make)
        except OutOfMemory:
            return False
        return True

    tensor = layout.sizes(config.parallel, accelerator.num_chips).get(layout.TENSOR, 1)
    unit = accelerator.num_chips // tensor * config.train.accumulate
    found = largest_rows(fits, unit=unit, too_many=rows)
    if found:
        parts = next(n for n in range(-(-rows // found), rows + 1) if rows % (unit * n) == 0)
        advice = (
            f"data.batch_rows={found} is the largest that fits, to within an eighth; or keep the "
            f"batch and give train.accumulate={config.train.accumulate * parts}"
        )
    else:
        advice = f"not even data.batch_rows={unit} fits: share the parameters out (parallel.fsdp)"
    return (
        f"{config.name} on {accelerator.name} ({accelerator.num_chips} x {accelerator.chip.name})\n"
        f"does not fit with data.batch_rows={rows}: {problem}\n{advice}"
        + ("" if config.model.remat else ", or model.remat=true")
    )


def largest_rows(fits: Callable[[int], bool], *, unit: int, too_many: int) -> int:
    """The largest multiple of `unit` that fits, to within an eighth; 0 if none does.

    Args:
      fits: whether so many rows do; it is slow.
      unit: what the rows have to divide by.
      too_many: rows that do not fit.
    """
    bad = -(-too_many // unit)
    good = bad // 2
    while good and not fits(good * unit):
        bad, good = good, good // 2
    while good and bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        if fits(middle * unit):
            good = middle
        else:
            bad = middle
    return good * unit


def report(
    config: Config,
    accelerator: Accelerator,
    program: Program,
    *,
    real: float | None,
    chip_hour_price: float | None,
) -> str:
    """The plan, to be read by a person.

    Args:
      config: the experiment.
      accelerator: what it is for, with the speeds of its chips.
      program: the training step there.
      real: the share of positions that are not padding; None = assumed.
      chip_hour_price: of one chip; None = no cost.
    """
    data, chips = config.data, accelerator.num_chips
    needed, computed = model_size.step_flops(config)
    traffic = roofline.memory_traffic(config, program.estimate)
    took = roofline.step_time(config, accelerator, traffic, program.exchanged)
    share = ASSUMED_REAL_SHARE if real is None else real
    positions = data.batch_rows * (data.source_row_length + data.target_row_length)
    hours = config.train.steps * took.step / 3600
    speeds = "speeds measured here" if accelerator.platform == "cpu" else "published speeds"
    used = roofline.utilisation(config, accelerator, took.step)
    forward = model_size.forward_flops(config)
    lines = [
        f"{config.name} on {accelerator.name}: {program.devices}",
        f"memory and exchange: {program.origin}; time: a model, nothing ran",
        "",
        *_memory_lines(program, accelerator),
        "",
        f"FLOPs per step: {needed:.3e} by the shapes, forward and backward"
        + (f"; {computed:.3e} with remat" if computed > needed else ""),
        "  " + ", ".join(f"{name} {3 * n / needed:.0%}" for name, n in forward.items()),
        "",
        *_exchange_lines(program),
        "",
        f"time per step: {_ms(took.step)}, from {speeds}",
        f"  matmuls                {_ms(took.compute)}, at {roofline.EFFICIENCY:.0%} of "
        "the peak (assumed)",
        f"  memory traffic         {_ms(took.memory)}, beside the matmuls; {traffic / 1e9:.2f} GB, "
        "estimated from shapes",
        f"  exchange               {_ms(took.exchange)}, of which {_ms(took.exposed)} with nothing "
        "beside it",
    ]
    if took.step_at_best < took.step:
        lines += [
            f"  beside the backward pass, {_ms(took.exposed_at_best)} of it would be left, and a "
            f"step would take {_ms(took.step_at_best)}"
        ]
    origin = "assumed" if real is None else "of the workdir's packed text"
    lines += [
        f"padding: {1 - share:.1%} of positions ({origin})",
        f"{share * positions / took.step:,.0f} tokens/s, source and target; MFU {used:.1%}",
        f"{config.train.steps:,} steps: {hours:.2f} hours, {hours * chips:.1f} chip-hours"
        + ("" if chip_hour_price is None else f", cost {hours * chips * chip_hour_price:,.2f}"),
    ]
    return "\n".join(lines)


def _memory_lines(program: Program, accelerator: Accelerator) -> list[str]:
    memory, estimate = accelerator.chip.memory, program.estimate
    largest = max(program.memory, key=lambda part: program.memory[part])
    spare = _bytes(memory - program.total)
    return [
        f"memory of a chip: {_bytes(program.total)} of {_bytes(memory)}: fits, {spare} to spare",
        *(f"  {part:32} {_bytes(n)}" for part, n in program.memory.items()),
        f"  from shapes: activations {_bytes(estimate.activations)}, gradients "
        f"{_bytes(estimate.gradients)}, logits {_bytes(estimate.logits)}",
        f"  largest: {largest}",
    ]


def _exchange_lines(program: Program) -> list[str]:
    if not program.exchanged:
        return ["exchange between chips: none"]
    lines = ["exchange between chips, per step and chip:"]
    for c in sorted(program.exchanged, key=lambda c: -c.sent)[:8]:
        beside = "beside other work" if c.asynchronous else "everything waits for it"
        size = f"{c.size / 1e6:.3f} MB"
        lines.append(f"  {c.times} x {c.kind} of {size} among {c.group} chips; {beside}")
    more = len(program.exchanged) - 8
    return lines + ([f"  and {more} smaller kinds"] if more > 0 else [])


def _bytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.2f} MiB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _compile(config: Config, accelerator: Accelerator) -> Program:
    """The training step as the compiler of `accelerator` makes it.

    Raises:
      OutOfMemory: if the compiler finds no way to fit it.
    """
    devices = choose_devices(config, compile_for=_targets(accelerator))
    model = Transformer(config.model, config.data.vocab_size)
    step = devices.compile_step(partial(make_train_step, config, model))
    state = jax.eval_shape(lambda: create_state(config, model))
    place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    state = jax.tree.map(place, state, devices.shardings(state))
    held = sum(int(np.prod(x.sharding.shard_shape(x.shape))) for x in jax.tree.leaves(state.params))
    log(f"compiling for {devices.description} …")
    try:
        compiled = step.lower(state, devices.batch_shapes(_batch_shapes(config))).compile()
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise OutOfMemory(str(e).splitlines()[0].partition(": ")[2]) from None
    found = compiled.memory_analysis()
    estimate = _estimate_memory(config, held, devices.mesh.size)
    temporary = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return Program(
        devices.description,
        f"compiled for {accelerator.name}",
        {
            "parameters": estimate.parameters,
            "optimiser state": estimate.optimizer_state,
            "activations, gradients, logits": temporary,
            "program and batch": found.generated_code_size_in_bytes
            + found.argument_size_in_bytes
            - estimate.parameters
            - estimate.optimizer_state,
        },
        estimate,
        roofline.collectives(
            compiled.as_text(), chips=devices.mesh.size, loops=config.train.accumulate
        ),
    )


def _estimate(config: Config, accelerator: Accelerator) -> Program:
    """The training step of replicas, from shapes alone."""
    sharded = config.parallel.fsdp != 1 or config.parallel.tensor != 1
    if sharded or config.parallel.strategy == "mesh":
        raise UserError(
            f"--accelerator={accelerator.name} is planned from shapes, as replicas: "
            "give parallel.strategy=auto, parallel.fsdp=1 and parallel.tensor=1"
        )
    chips = accelerator.num_chips
    layout.check_batch(config, chips)
    model = Transformer(config.model, config.data.vocab_size)
    number = count_parameters(parameter_shapes(model))
    memory = _estimate_memory(config, number, chips)
    gradients = roofline.Collective("all-reduce", 4 * number, chips)
    return Program(
        f"{chips} {accelerator.chip.name} device{'s' if chips > 1 else ''}, replicas",
        "estimated from shapes, not compiled",
        {
            "parameters": memory.parameters,
            "optimiser state": memory.optimizer_state,
            "activations, gradients, logits": memory.total
            - memory.parameters
            - memory.optimizer_state,
        },
        memory,
        [gradients] if chips > 1 else [],
    )


def _estimate_memory(config: Config, held: float, chips: int) -> roofline.Memory:
    rows = config.data.batch_rows / (chips * config.train.accumulate)
    return roofline.estimate_memory(config, held, rows)


def _targets(accelerator: Accelerator) -> Sequence[jax.Device]:
    if accelerator.platform == "cpu":
        return jax.devices()
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--accelerator={accelerator.name} needs the compiler for TPUs, which needs no TPU: "
            'pip install "jax[tpu]"'
        )
    return topologies.get_topology_desc(**accelerator.topology).devices


def _batch_shapes(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    data, nothing = config.data, np.zeros(0, np.int32)
    start = np.zeros(1, np.int64)
    batch = pack(
        TokenizedPairs(nothing, nothing, start, start),
        [nothing],
        source_row_length=data.source_row_length,
        target_row_length=data.target_row_length,
    )
    batch |= {"row": np.zeros(1, np.int32)}
    return {
        name: jax.ShapeDtypeStruct((data.batch_rows, *x.shape[1:]), x.dtype)
        for name, x in batch.items()
    }


def _this_machine(accelerator: Accelerator) -> Accelerator:
    """`accelerator` with as many devices as jax has here, and speeds measured here."""
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    n = jax.device_count()
    speeds = {}
    for dtype in ("bfloat16", "float32"):
        x = jnp.ones((512, 512), dtype)
        speeds[f"{dtype}_flops"] = 2 * 512**3 / _fastest(jax.jit(jnp.matmul), x, x) / n
    x = jnp.ones(2**24, jnp.float32)
    copied = 2 * x.nbytes / _fastest(jax.jit(jnp.negative), x) / n
    chip = dataclasses.replace(
        accelerator.chip, **speeds, memory=memory / n, memory_speed=copied, link_speed=copied
    )
    return dataclasses.replace(accelerator, chip=chip, shape=(n,), rings=(False,))


def _fastest(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    seconds = []
    for _ in range(4):  # the first compiles
        start = time.perf_counter()
        function(*arguments).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def real_share(config: Config, workdir: Path) -> float | None:
    """The share of positions of the training text packed in `workdir`; None = none is there."""
    path = workdir / DATA_FILE
    if not path.exists():
        return None
    folder = workdir / "tokens" / path.read_text().strip()
    names = [f.name for f in dataclasses.fields(TokenizedPairs)]
    try:
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]
    except OSError:
        return None
    pairs = TokenizedPairs(*arrays)
    row_lengths = {
        "source_row_length": config.data.source_row_length,
        "target_row_length": config.data.target_row_length,
    }
    packing = plan_packing(pairs.source_lengths, pairs.target_lengths, **row_lengths)
    return PackedDataset(pairs, packing, batch_rows=1, seed=0).real_share
