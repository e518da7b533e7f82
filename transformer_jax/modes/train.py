"""Train, or resume, the experiment; then evaluate it on the test split.

The run stays in --workdir, which resumes from its last checkpoint when the same command runs again.
--target writes a job that runs the same command on a Cloud TPU, under Slurm, or with SkyPilot.

Examples:
    launch.py
    launch.py --config=experiments/multi30k_en_de.py --config.data.path=DIR --workdir=runs/multi30k
"""

import shlex
from typing import TYPE_CHECKING

from transformer_jax.errors import UserError
from transformer_jax.modes import targets
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch

if TYPE_CHECKING:
    from transformer_jax.inference.trained import Model


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.weights()
    flags.processes()
    flags.path("profile", "Folder for a profiler trace of a few training steps.")
    targets.define(flags)


def run(launch: Launch) -> int:
    """Trains, evaluates on the test split, and translates the demo sentence."""
    if targets.wanted(launch):
        return targets.write_job(launch)
    launch.start()  # before jax is imported
    from transformer_jax.modes.evaluate import evaluate
    from transformer_jax.training import preemption
    from transformer_jax.training.run import train

    config = launch.run_config
    if config.decode.choose == "reverse":  # known before hours of work
        raise UserError(
            "decode.choose='reverse' needs --reverse=DIR, which --mode=train does not have: leave "
            "it out, and give both to --mode=evaluate"
        )
    with preemption.handled(config.train.grace_seconds):
        trained = train(
            config, launch.workdir, weights=launch["weights"], profile=launch["profile"]
        )
        evaluate(trained.model, launch.workdir, split="test", weights=launch["weights"])
        if config.demo:
            _translate_demo(trained.model, launch)
    return 0


def _translate_demo(model: "Model", launch: Launch) -> None:
    from transformer_jax.parallel import processes

    demo = launch.config.demo
    translation = model.translate(demo)
    if processes.is_writer():
        print(f"\n{demo} → {translation}")
        print("Translate your own text:")
        workdir = shlex.quote(str(launch.workdir))
        print(f"  echo {demo} | {launch.program} --mode=translate --workdir={workdir}")
