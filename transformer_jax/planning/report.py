"""The plan as text, which marks every estimate as one."""

from transformer_jax.config.options import Config
from transformer_jax.model import size as model_size
from transformer_jax.planning import roofline
from transformer_jax.planning.accelerators import Accelerator
from transformer_jax.planning.program import Program

# The share of positions that are not padding, if no workdir has packed text: typical of packing.
ASSUMED_REAL_SHARE = 0.95
_LISTED = 8  # collectives


def report(
    config: Config,
    accelerator: Accelerator,
    program: Program,
    real: float | None,
    price: float | None,
) -> str:
    """The plan of a step that fits.

    `real` is the share of positions that are not padding, `price` that of a chip for an hour.
    """
    needed, computed = model_size.step_flops(config)
    forward = model_size.forward_flops(config)
    lines = [
        f"{config.name} on {accelerator.name}: {program.devices}",
        f"memory and exchange: {program.origin}; time: estimated, nothing ran",
        "",
        *_memory_lines(program, accelerator),
        "",
        f"FLOPs per step: {needed:.3e}, counted from shapes, forward and backward"
        + (f"; {computed:.3e} with remat" if computed > needed else ""),
        "  " + ", ".join(f"{name} {3 * n / needed:.0%}" for name, n in forward.items()),
        "",
        *_exchange_lines(program),
        "",
        *_time_lines(config, accelerator, program, real, price),
    ]
    return "\n".join(lines)


def _memory_lines(program: Program, accelerator: Accelerator) -> list[str]:
    memory, estimate = accelerator.chip.memory, program.estimate
    return [
        f"memory of a chip: {size(program.total)} of {size(memory)}: "
        f"fits, {size(memory - program.total)} to spare",
        *(f"  {part:32} {size(n)}" for part, n in program.memory.items()),
        f"  estimated from shapes: activations {size(estimate.activations)}, gradients "
        f"{size(estimate.gradients)}, logits {size(estimate.logits)}",
        f"  largest: {max(program.memory, key=lambda part: program.memory[part])}",
    ]


def _exchange_lines(program: Program) -> list[str]:
    if not program.exchanged:
        return ["exchange between chips: none"]
    lines = ["exchange between chips, per step and chip:"]
    for c in sorted(program.exchanged, key=lambda c: -c.sent)[:_LISTED]:
        overlap = "overlaps with other work" if c.asynchronous else "everything waits for it"
        lines.append(
            f"  {c.times} x {c.kind} of {c.size / 1e6:.3f} MB among {c.group} chips; {overlap}"
        )
    more = len(program.exchanged) - _LISTED
    return lines + ([f"  and {more} smaller kinds"] if more > 0 else [])


def _time_lines(
    config: Config,
    accelerator: Accelerator,
    program: Program,
    real: float | None,
    price: float | None,
) -> list[str]:
    traffic = roofline.memory_traffic(config, program.estimate)
    took = roofline.step_time(config, accelerator, program.estimate, program.exchanged)
    speeds = "speeds measured here" if accelerator.platform == "cpu" else "published speeds"
    lines = [
        f"time per step: {_ms(took.step)}, estimated from {speeds}",
        f"  matmuls                {_ms(took.compute)}, at {roofline.EFFICIENCY:.0%} of the peak "
        "(assumed)",
        f"  memory traffic         {_ms(took.memory)}, during the matmuls; {traffic / 1e9:.2f} GB, "
        "estimated from shapes",
        f"  exchange               {_ms(took.exchange)}, of which {_ms(took.exposed)} overlap with "
        "nothing",
    ]
    if took.step_at_best < took.step:
        lines.append(
            f"  if it overlapped with the backward pass, {_ms(took.exposed_at_best)} of it would "
            f"remain, and a step would take {_ms(took.step_at_best)}"
        )
    data, steps, chips = config.data, config.train.steps, accelerator.num_chips
    share, origin = (ASSUMED_REAL_SHARE, "assumed") if real is None else (real, "in the workdir")
    positions = data.batch_rows * (data.source_row_length + data.target_row_length)
    hours = steps * took.step / 3600
    cost = "" if price is None else f", cost {hours * chips * price:,.2f}"
    utilisation = roofline.utilisation(config, accelerator, took.step)
    return [
        *lines,
        f"padding: {1 - share:.1%} of positions ({origin})",
        f"estimates: {share * positions / took.step:,.0f} tokens/s, source and target; "
        f"MFU {utilisation:.1%}",
        f"  {steps:,} steps: {hours:.2f} hours, {hours * chips:.1f} chip-hours{cost}",
    ]


def size(number: float) -> str:
    """A number of bytes: "1.25 GiB", or "33.21 MiB" if it is less than a tenth of a GiB."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 / 10 else f"{number / 2**20:.2f} MiB"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
