"""What a sweep will cost, from shapes alone: `--mode=sweep --dry_run`."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.config import experiment_files
from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.model import size
from transformer_jax.model.size import count_parameters, parameter_shapes
from transformer_jax.model.transformer import Transformer
from transformer_jax.planning import accelerators, roofline
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
    """`report` of what `sweeps.run` would train, with the same arguments."""
    if num_trials is not None:
        experiment_files.load_search_space(file)
        trials = [(f"trial_{n:04}", config) for n in range(num_trials)]
        text = report(trials, accelerator, chip_hour_price)
        return (
            f"{text}\na search: each trial is counted as the base, for what it changes is not known"
        )
    points = load_points(file, config, arguments)
    whole = [(name, configured(config, name, o, origin=str(file))) for name, o in points]
    return report(whole, accelerator, chip_hour_price)


def report(
    points: list[tuple[str, Config]],
    accelerator: str | None,
    chip_hour_price: float | None = None,
) -> str:
    """A table of the points: parameters, steps, operations, and hours on `accelerator` if given.

    Operations are those that the model needs to train, without validation and the last test. With
    the price of an hour of one chip, in any currency, there is the cost of it all.

    Raises:
      UserError: if there is no such accelerator.
    """
    chips = _published(accelerator) if accelerator else None
    total_flops, total_hours = 0.0, 0.0
    rows = [["point", "parameters", "steps", "FLOPs", *(["hours"] if chips else [])]]
    for name, config in points:
        parameters = _parameters(config)
        flops = float(config.train.steps * size.step_flops(config)[0])
        row = [name, f"{parameters:,}", f"{config.train.steps:,}", f"{flops:.2e}"]
        if chips:
            hours = config.train.steps * _step_seconds(config, chips, parameters) / 3600
            row.append(f"{hours:.2f}")
            total_hours += hours
        total_flops += flops
        rows.append(row)
    hours = [f"{total_hours:.2f}"] if chips else []
    rows.append([f"{len(points)} points", "", "", f"{total_flops:.2e}", *hours])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{c:{'>' if i else '<'}{widths[i]}}" for i, c in enumerate(row)) for row in rows
    ]
    if chips:
        lines.append(f"hours: on {accelerator}, from published speeds; a model, nothing ran")
    if chips and chip_hour_price is not None:
        cost = total_hours * chips.num_chips * chip_hour_price
        lines.append(f"cost: {cost:,.2f}, of {total_hours * chips.num_chips:.2f} chip-hours")
    return "\n".join(lines)


def _parameters(config: Config) -> int:
    model = Transformer(config.model, config.data.vocab_size)
    return count_parameters(parameter_shapes(model))


def _published(name: str) -> accelerators.Accelerator:
    found = accelerators.find(name)
    if found.platform == "cpu":
        raise UserError("--dry_run knows no speed of this CPU: see --mode=plan --accelerator=cpu")
    return found


def _step_seconds(config: Config, chips: accelerators.Accelerator, parameters: int) -> float:
    """Of replicas, as `--mode=plan` has it for GPUs; but where that compiles, this estimates."""
    n = chips.num_chips
    memory = roofline.estimate_memory(config, parameters, n)
    exchanged = roofline.replicas_exchange(parameters, n)
    traffic = roofline.memory_traffic(config, memory)
    return roofline.step_time(config, chips, traffic, exchanged).step
