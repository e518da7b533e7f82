"""What a sweep would cost, from shapes alone: `--mode=sweep --dry_run`."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax import console
from transformer_jax.config import experiment_files
from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.model import size
from transformer_jax.model.transformer import Transformer
from transformer_jax.planning import accelerators, roofline
from transformer_jax.planning.program import estimate_program
from transformer_jax.sweeps.sweep import configured, load_points


def dry_run(
    config: Config,
    file: Path,
    arguments: Sequence[str],
    num_trials: int | None,
    *,
    accelerator: str | None,
    chip_hour_price: float | None = None,
) -> str:
    """The `report` on the points that `sweep.run` would train with the same arguments."""
    if num_trials is None:
        points = load_points(file, config, arguments)
        whole = [(name, configured(config, name, o, origin=str(file))) for name, o in points]
        return report(whole, accelerator, chip_hour_price)
    experiment_files.load_search_space(file)
    trials = [(f"trial_{number:04}", config) for number in range(num_trials)]
    text = report(trials, accelerator, chip_hour_price)
    return f"{text}\na search: each trial is counted as the base experiment, for want of its own"


def report(
    points: Sequence[tuple[str, Config]],
    accelerator: str | None,
    chip_hour_price: float | None = None,
) -> str:
    """A table of the points' parameters, steps and FLOPs, and their hours on `accelerator`, if any.

    FLOPs are those that training needs, without validation and the final test. With the price of an
    hour of one chip, in any currency, the cost of all points is added.

    Raises:
      UserError: if there is no such accelerator, or it cannot train a point.
    """
    chips = _published(accelerator) if accelerator else None
    total_flops, total_hours = 0.0, 0.0
    rows = [["point", "parameters", "steps", "FLOPs", *(["hours"] if chips else [])]]
    for name, config in points:
        shapes = size.parameter_shapes(Transformer(config.model, config.data.vocab_size))
        flops = float(config.train.steps * size.step_flops(config)[0])
        total_flops += flops
        parameters, steps = size.count_parameters(shapes), config.train.steps
        rows.append([name, f"{parameters:,}", f"{steps:,}", f"{flops:.2e}"])
        if chips:
            hours = steps * _step_seconds(config, chips) / 3600
            total_hours += hours
            rows[-1].append(f"{hours:.2f}")
    rows.append([f"{len(points)} points", "", "", f"{total_flops:.2e}"])
    if not chips:
        return "\n".join(console.table(rows))
    rows[-1].append(f"{total_hours:.2f}")
    lines = console.table(rows)
    lines.append(f"hours: estimated for {accelerator} from published speeds; nothing ran")
    if chip_hour_price is not None:
        chip_hours = total_hours * chips.num_chips
        lines.append(f"cost: {chip_hours * chip_hour_price:,.2f}, of {chip_hours:.2f} chip-hours")
    return "\n".join(lines)


def _published(name: str) -> accelerators.Accelerator:
    found = accelerators.find(name)
    if found.platform == "cpu":
        raise UserError("--dry_run knows no speed of this CPU: use --mode=plan --accelerator=cpu")
    return found


def _step_seconds(config: Config, chips: accelerators.Accelerator) -> float:
    program = estimate_program(config, chips)
    traffic = roofline.memory_traffic(config, program.estimate)
    return roofline.step_time(config, chips, traffic, program.exchanged).step
