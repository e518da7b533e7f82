"""--target: the same command elsewhere, as a job that the user submits."""

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformer_jax.cloud import checkout, launch_line, skypilot, slurm, tpu_vm
from transformer_jax.config.experiment_files import checkout_folder
from transformer_jax.console import log
from transformer_jax.errors import UserError
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch, command
from transformer_jax.parallel import layout
from transformer_jax.planning import accelerators
from transformer_jax.storage import write_whole

# What submits the job of a target.
_SUBMIT = {"tpu-vm": "bash", "slurm": "sbatch", "skypilot": "sky jobs launch"}
_CLOUDS = ("tpu-vm", "skypilot")
# The targets that read a flag, its help, its default, and its least value. No flag reaches the run.
_FLAGS: dict[str, tuple] = {
    "output": (tuple(_SUBMIT), "file for the job (default: standard output).", None),
    "name": (tuple(_SUBMIT), "name of the job and of its machine (default: the experiment's).", ""),
    "accelerator": (_CLOUDS, "accelerator, e.g. v5litepod-16; for skypilot also e.g. A100:8.", ""),
    "zone": (_CLOUDS, "Google Cloud zone, e.g. us-west4-a.", ""),
    "runtime_version": (_CLOUDS, "software of a Cloud TPU (default: by the accelerator).", ""),
    "spot": (_CLOUDS, "spot capacity, which is cheaper and may be reclaimed.", False),
    "keep": (("tpu-vm",), "leave the TPU running at the end.", False),
    "nodes": (("slurm",), "number of machines.", 1, 1),
    "gpus_per_node": (("slurm",), "GPUs of each machine; 0 = CPUs only.", 1, 0),
    "time": (("slurm",), "time limit, after which the job is requeued, e.g. 24:00:00.", ""),
}


def define(flags: Flags) -> None:
    """Defines --target and the flags that go with it."""
    flags.choice(
        "target", "Where to run, as a job to submit (default: this machine).", list(_SUBMIT)
    )
    for name, (targets, about, default, *least) in _FLAGS.items():
        text = f"--target={', '.join(targets)}: {about}"
        if isinstance(default, bool):
            flags.switch(name, text)
        elif isinstance(default, int):
            flags.whole(name, text, default, *least)
        elif name == "output":
            flags.path(name, text)
        else:
            flags.text(name, text, default)


def wanted(launch: Launch) -> bool:
    """Whether --target is given.

    Raises:
      UserError: if a flag is given that belongs to another target, or to any.
    """
    target = launch["target"]
    for name, (targets, *_) in _FLAGS.items():
        if launch.flags[name].present and target not in targets:
            here = f", not with --target={target}" if target else ""
            raise UserError(f"--{name} goes with --target={' or '.join(targets)}{here}")
    return target is not None


def write_job(launch: Launch) -> int:
    """Writes the job that runs this command at --target; returns the exit status.

    Raises:
      UserError: if something cannot work there.
    """
    target, file = launch["target"], launch["output"]
    own = {name: bool(launch.flags[name].boolean) for name in ("target", *_FLAGS)}
    given: dict[str, Any] = {
        name: launch[name] for name, (targets, *_) in _FLAGS.items() if target in targets
    }
    del given["output"]
    given["name"] = given["name"] or launch_line.default_name(launch.config.name)
    if target == "slurm":
        line = [*command(), *launch_line.without(launch.arguments, own)]
        job = slurm.script(line, folder=str(Path.cwd()), **given)
    else:
        folder = checkout_folder()
        known = checkout.files(folder)
        _check_cloud(launch, known)
        line = launch_line.without(launch.arguments, own | {"config": False})
        if launch.experiment:
            line = [f"--config={checkout.relative(launch.experiment, folder, known)}", *line]
        write = skypilot.task if target == "skypilot" else tpu_vm.script
        job = write(line, folder=str(folder), **given)
    if not file:
        print(job, end="")
        return 0
    write_whole(Path(file), job)
    log(f"wrote {file}; submit it with: {_SUBMIT[target]} {shlex.quote(file)}")
    return 0


def _check_cloud(launch: Launch, known: Collection[str]) -> None:
    target, accelerator = launch["target"], launch["accelerator"]
    if not accelerator:
        raise UserError(f"--target={target} needs --accelerator=…, e.g. --accelerator=v5litepod-16")
    launch_line.check_workdir(launch["workdir"], target)
    checkout.check_data(launch.config.data, known)
    if launch_line.tpu_kind(accelerator) in launch_line.RUNTIME_VERSIONS:
        layout.check_batch(launch.config, accelerators.find(accelerator).num_chips)
    if target == "tpu-vm" and not launch["zone"]:
        raise UserError("--target=tpu-vm needs --zone=…, e.g. --zone=us-west4-a")
