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
    """A table of the points that `sweep.run` would train with the same arguments.

    It has their parameters, steps and FLOPs, and their hours on `accelerator`, if any. FLOPs are
    those that training needs, without validation and the final test. With the price of an hour of
    one chip, in any currency, the cost of all points is added.

    Raises:
      UserError: if there is no such accelerator, or it cannot train a point.
    """
    chips = accelerators.find(accelerator) if accelerator else None
    if chips and chips.platform == "cpu":
        raise UserError("--dry_run knows no speed of this CPU: use --mode=plan --accelerator=cpu")
    if num_trials is None:
        found = load_points(file, config, arguments)
        points = [(name, configured(config, name, o, origin=str(file))) for name, o in found]
    else:
        experiment_files.load_search_space(file)
        points = [(f"trial_{number:04}", config) for number in range(num_trials)]
    total_flops, total_hours = 0.0, 0.0
    rows = [["point", "parameters", "steps", "FLOPs", *(["hours"] if chips else [])]]
    for name, point in points:
        shapes = size.parameter_shapes(Transformer(point.model, point.data.vocab_size))
        parameters, steps = size.count_parameters(shapes), point.train.steps
        flops = float(steps * size.step_flops(point)[0])
        total_flops += flops
        rows.append([name, f"{parameters:,}", f"{steps:,}", f"{flops:.2e}"])
        if chips:
            program = estimate_program(point, chips)
            took = roofline.step_time(point, chips, program.estimate, program.exchanged)
            total_hours += steps * took.step / 3600
            rows[-1].append(f"{steps * took.step / 3600:.2f}")
    total = [f"{len(points)} points", "", "", f"{total_flops:.2e}"]
    lines = console.table([*rows, total + ([f"{total_hours:.2f}"] if chips else [])])
    if chips:
        lines.append(f"hours: estimated for {accelerator} from published speeds; nothing ran")
    if chips and chip_hour_price is not None:
        hours = total_hours * chips.num_chips
        lines.append(f"cost: {hours * chip_hour_price:,.2f}, of {hours:.2f} chip-hours")
    if num_trials is not None:
        lines.append("a search: each trial is counted as the base experiment")
    return "\n".join(lines)
