"""Which options decide the program of a training step, and which are numbers that it reads.

Runs of one program can train together, as lanes (lanes.py). This imports no jax: a launcher of many
runs asks it.
"""

from typing import Any

from transformer_jax.config import Config, UserError, flatten

# Numbers to the step: traced, so that another value is the same program. training.Hyperparameters
# has each under the last part of its name.
TRACED = (
    *("seed", "optimizer.learning_rate_scale", "optimizer.warmup_steps"),
    *("optimizer.beta1", "optimizer.beta2", "optimizer.epsilon", "optimizer.clip_norm"),
    *("optimizer.label_smoothing", "model.dropout_rate", "model.attention_dropout_rate"),
)
# Of those, the ones whose 0 is "not at all": another program, without the operation.
NONE_IF_ZERO = ("optimizer.clip_norm", "model.dropout_rate", "model.attention_dropout_rate")


def program(config: Config) -> dict[str, Any]:
    """All options but the name and the traced ones; of `NONE_IF_ZERO`, whether they are 0."""
    options = flatten(config)
    kept = {name: value for name, value in options.items() if name not in ("name", *TRACED)}
    return kept | {f"{name} (0 or not)": options[name] != 0 for name in NONE_IF_ZERO}


def check_lane(config: Config) -> None:
    """Raises UserError if `config` cannot be trained as a lane."""
    p, without = config.parallel, "or leave --sweep_vectorize out"
    sizes = p.data, p.fsdp, p.tensor
    if p.strategy in ("pmap", "mesh") or sizes != (-1, 1, 1):
        raise UserError(
            f"lanes train on one device, and parallel.strategy={p.strategy!r} (data, fsdp and "
            f"tensor are {', '.join(map(str, sizes))}) is for several: give "
            f"parallel.strategy=single, {without}"
        )
    if config.train.rng != "threefry":
        raise UserError(
            f"train.rng={config.train.rng!r} draws other numbers for lanes than for a run alone: "
            f"give train.rng=threefry, {without}"
        )
    if config.model.attention != "xla":
        raise UserError(
            f"lanes have no model.attention={config.model.attention!r}: give "
            f"model.attention=xla, {without}"
        )
