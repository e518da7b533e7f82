"""What training an experiment needs on another machine: `--mode=plan`.

libtpu compiles the training step for a TPU without one, and jax compiles it for this machine's CPU;
memory and exchange are read from the compiled program. FLOPs are counted from shapes, and times
are estimated from published speeds: nothing runs.
"""

import bisect
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from transformer_jax.config.options import Config
from transformer_jax.console import log
from transformer_jax.data import tokens as data_tokens
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.packing import plan_packing
from transformer_jax.errors import UserError
from transformer_jax.parallel import layout
from transformer_jax.planning import accelerators
from transformer_jax.planning.accelerators import Accelerator
from transformer_jax.planning.program import OutOfMemory, Program, compile_program, estimate_program
from transformer_jax.planning.report import report, size
from transformer_jax.training.prepared import DATA_FILE


def plan(config: Config, name: str, *, workdir: Path, chip_hour_price: float | None) -> str:
    """The report on training `config` on the accelerator `name`: v5litepod-16, h100, cpu, ….

    The share of padding is counted in `workdir`, if it has packed text. The price of an hour of one
    chip, in any currency, adds the cost of the run.

    Raises:
      UserError: if there is no such accelerator, the batch does not divide by its chips, or the
        compiler is missing.
    """
    accelerator = accelerators.find(name)
    if accelerator.platform == "cpu":
        accelerator = _this_machine(accelerator)
    layout.check_attention(config, accelerator.platform, name)
    if config.parallel.strategy == "single" and accelerator.num_chips > 1:
        raise UserError(
            f"parallel.strategy='single' would leave all but one of the {accelerator.num_chips} "
            f"chips of {name} idle: name a smaller accelerator, or give parallel.strategy=auto"
        )
    try:
        program = _fitting_program(config, accelerator)
    except OutOfMemory as e:
        return _too_large(config, accelerator, str(e))
    return report(config, accelerator, program, real_share(config, workdir), chip_hour_price)


def _fitting_program(config: Config, accelerator: Accelerator) -> Program:
    """The program, if a chip is large enough for it; raises OutOfMemory otherwise."""
    make = estimate_program if accelerator.platform == "gpu" else compile_program
    program, memory = make(config, accelerator), accelerator.chip.memory
    if program.total > memory:
        raise OutOfMemory(f"it needs {size(program.total)} of {size(memory)} ({program.origin})")
    return program


def _too_large(config: Config, accelerator: Accelerator, problem: str) -> str:
    """The report on a batch that does not fit, and how many micro-batches would."""
    rows, chips, accumulate = config.data.batch_rows, accelerator.num_chips, config.train.accumulate
    most = rows * layout.sizes(config.parallel, chips).get(layout.TENSOR, 1) // (chips * accumulate)
    parts = [n for n in range(2, most + 1) if most % n == 0]

    def fits(n: int) -> bool:
        log(f"trying train.accumulate={n * accumulate} …")
        train = dataclasses.replace(config.train, accumulate=n * accumulate)
        try:
            _fitting_program(dataclasses.replace(config, train=train), accelerator)
        except OutOfMemory:
            return False
        return True

    found = bisect.bisect_left(parts, True, key=fits)
    if found < len(parts):
        advice = (
            f"give train.accumulate={parts[found] * accumulate}, which fits, "
            f"or data.batch_rows={rows // parts[found]}"
        )
    else:
        advice = "one row at a time does not fit either: shard the parameters (parallel.fsdp)"
    return (
        f"{config.name} on {accelerator.name} ({chips} x {accelerator.chip.name})\n"
        f"does not fit with data.batch_rows={rows}: {problem}\n{advice}"
        + ("" if config.model.remat else ", or model.remat=true")
    )


def _this_machine(accelerator: Accelerator) -> Accelerator:
    """`accelerator` with the number of jax's devices here, and speeds measured here."""
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
    return dataclasses.replace(accelerator, chip=chip, shape=(n,), links=int(n > 1))


def _fastest(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    seconds = []
    for _ in range(4):  # the first call compiles
        start = time.perf_counter()
        function(*arguments).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def real_share(config: Config, workdir: Path) -> float | None:
    """The share of positions that are not padding in the text of `workdir`; None = it has none."""
    path = workdir / DATA_FILE
    if not path.exists():
        return None
    pairs = data_tokens.read_tokens(workdir / "tokens" / path.read_text().strip())
    if pairs is None:
        return None
    packing = plan_packing(
        pairs.source_lengths,
        pairs.target_lengths,
        source_row_length=config.data.source_row_length,
        target_row_length=config.data.target_row_length,
    )
    return PackedDataset(pairs, packing, batch_rows=1, seed=0).real_share
