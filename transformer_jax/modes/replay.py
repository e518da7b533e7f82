"""Replay one training step slowly: which rows and parameters are not finite, and the rows' text.

Example:
    launch.py --mode=replay --workdir=runs/mine --step=1203
"""

from absl import flags
from absl.flags import FlagValues

from transformer_jax.errors import UserError
from transformer_jax.modes import shared
from transformer_jax.modes.launch import Launch


def define(values: FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_integer(
        "step", None, "Step to look at, from 1.", lower_bound=1, flag_values=values
    )
    shared.define_processes(values)


def run(launch: Launch) -> int:
    """Prints what is found."""
    if launch["step"] is None:
        raise UserError("--mode=replay needs --step=…: a skipped step, as its warning names it")
    launch.start()
    from transformer_jax.training.run import replay_step

    print(replay_step(launch.config, launch.workdir, launch["step"]))
    return 0
