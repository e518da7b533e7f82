"""Plan a training before paying for it: memory, FLOPs, communication, time and cost.

For a TPU, which this machine need not have, it compiles the real training step with libtpu
(pip install "transformer_jax[tpu]"); for a GPU it estimates from shapes. Times are estimates;
no training step runs.

Example:
    launch.py --mode=plan --config=experiments/wmt14_en_de_base.py --accelerator=v5litepod-16
"""

from transformer_jax.errors import UserError
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch
from transformer_jax.planning import accelerators

BEFORE_JAX = accelerators.COMPILE_ONLY


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.text("accelerator", "Accelerator: v5litepod-16, v4-64, h100, cpu, ….")
    flags.price()


def run(launch: Launch) -> int:
    """Prints the plan."""
    if not launch["accelerator"]:
        raise UserError("--mode=plan needs --accelerator=…, e.g. --accelerator=v5litepod-16")
    from transformer_jax.planning.plan import plan

    price = launch["chip_hour_price"]
    name, workdir = launch["accelerator"], launch.workdir
    print(plan(launch.run_config, name, workdir=workdir, chip_hour_price=price))
    return 0
