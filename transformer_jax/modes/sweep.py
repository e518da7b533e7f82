"""Train every point of an experiment's sweep(), or search its search_space().

Each point is trained by a process of its own in a workdir of its own, a folder of --workdir. The
same command, run again, resumes the sweep.

Example:
    launch.py --mode=sweep --config=experiments/table3.py:laptop --workdir=runs/table3
"""

import os
from pathlib import Path

from transformer_jax import storage
from transformer_jax.errors import UserError
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch, command


def define(flags: Flags) -> None:
    """Defines the flags."""
    workers = "Points to train at a time, each on a GPU or TPU chip of its own."
    database = "URL of a database that several launchers share (default: study.db in --workdir)."
    flags.whole("sweep_workers", workers, default=1, at_least=1)
    flags.whole("sweep_trials", "Number of points of search_space() to try.", at_least=1)
    flags.text("sweep_storage", database)
    flags.switch("dry_run", "Print the points and their cost; train none.")
    flags.text("accelerator", "With --dry_run: accelerator for which to estimate hours.")
    flags.price()
    flags.weights()
    del flags.values.sweep_index  # this mode trains every point


def run(launch: Launch) -> int:
    """Trains the points; returns 0, 1 if one failed, or 75 if a signal stopped it."""
    config, file = launch.config, launch.experiment
    if file is None:
        raise UserError("--mode=sweep needs --config=FILE.py, with a sweep() or search_space()")
    price, accelerator = launch["chip_hour_price"], launch["accelerator"]
    if price is not None and not (launch["dry_run"] and accelerator):
        raise UserError("--chip_hour_price goes with --mode=sweep --dry_run --accelerator=…")
    try:
        from transformer_jax.sweeps import sweep
    except ModuleNotFoundError as e:
        raise UserError(
            f"--mode=sweep needs optuna: pip install 'transformer_jax[sweep]' ({e})"
        ) from None
    arguments, trials = launch.child_arguments(["weights"]), launch["sweep_trials"]
    if launch["dry_run"]:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported
        from transformer_jax.sweeps import cost

        options = {"accelerator": accelerator, "chip_hour_price": price}
        print(cost.dry_run(config, file, arguments, trials, **options))
        return 0
    if accelerator:
        raise UserError("--accelerator goes with --mode=sweep --dry_run, to estimate hours")
    workdir = launch.workdir_name
    if workdir.startswith(storage.BUCKET):  # SQLite and the logs need a file system
        raise UserError(f"--mode=sweep needs a folder of this machine, not {workdir}")
    return sweep.run(
        config,
        file,
        Path(workdir),
        workers=launch["sweep_workers"],
        num_trials=trials,
        url=launch["sweep_storage"],
        arguments=arguments,
        launcher=command(),
    )
