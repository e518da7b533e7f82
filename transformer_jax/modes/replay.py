"""Replay one training step slowly: which rows and parameters are not finite, and the rows' text.

Example:
    launch.py --mode=replay --workdir=runs/mine --step=1203
"""

from transformer_jax.errors import UserError
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.whole("step", "Step to replay, from 1.", at_least=1)
    flags.processes()


def run(launch: Launch) -> int:
    """Prints what is found."""
    if launch["step"] is None:
        raise UserError("--mode=replay needs --step=…: a skipped step, as its warning names it")
    launch.start()
    from transformer_jax.training.replay import replay_step

    print(replay_step(launch.run_config, launch.workdir, launch["step"]))
    return 0
