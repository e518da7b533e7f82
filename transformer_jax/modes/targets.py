"""--target: the same command elsewhere. tpu-vm runs it; slurm and skypilot write its job."""

from pathlib import Path
from typing import Any

from transformer_jax.cloud import checkout, launch_line, skypilot, slurm, tpu_vm
from transformer_jax.config.experiment_files import checkout_folder
from transformer_jax.errors import UserError
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch, command
from transformer_jax.parallel import layout
from transformer_jax.planning import accelerators
from transformer_jax.storage import write_whole

# The flags that each target reads. None of them reaches the run.
_READS = {
    "tpu-vm": (
        *("name", "zone", "project", "accelerator", "runtime_version", "spot"),
        *("wait_hours", "max_preemptions", "keep", "dry_run"),
    ),
    "slurm": ("name", "nodes", "gpus_per_node", "partition", "time", "output"),
    "skypilot": ("name", "zone", "accelerator", "runtime_version", "spot", "output"),
}


def define(flags: Flags) -> None:
    """Defines --target and the flags that go with it."""
    flags.choice("target", "Where to run (default: this machine).", list(_READS))
    for name, help, *default in (
        ("name", "name of the VM or job (default: the experiment's)."),
        ("accelerator", "accelerator, e.g. v5litepod-16; for skypilot also e.g. A100:8."),
        ("zone", "Google Cloud zone, e.g. us-west4-a."),
        ("project", "Google Cloud project (default: gcloud's).", ""),
        ("runtime_version", "software of the VM (default: by the accelerator).", ""),
        ("partition", "partition (default: the cluster's).", ""),
        ("time", "time limit, e.g. 24:00:00; the job is requeued after it.", ""),
        ("output", "file for the job (default: standard output)."),
    ):
        flags.text(name, _prefixed(name, help), *default)
    for name, help, default, least in (
        ("wait_hours", "hours to queue for the VM.", 24, 1),
        ("max_preemptions", "number of reclaimed VMs after which to give up.", 20, 0),
        ("nodes", "number of machines.", 1, 1),
        ("gpus_per_node", "GPUs of each machine; 0 = CPUs only.", 1, 0),
    ):
        flags.whole(name, _prefixed(name, help), default, least)
    for name, help in (
        ("spot", "use spot capacity: cheaper, but it may be reclaimed."),
        ("keep", "keep the VM at the end."),
        ("dry_run", "print the commands and run none."),
    ):
        flags.switch(name, _prefixed(name, help))


def _prefixed(name: str, help: str) -> str:
    return f"--target={', '.join(_readers(name))}: {help}"


def _readers(name: str) -> list[str]:
    return [target for target, names in _READS.items() if name in names]


def wanted(launch: Launch) -> bool:
    """Whether --target is given.

    Raises:
      UserError: if a flag is given that belongs to another target, or to any.
    """
    target = launch["target"]
    for name in {name: None for names in _READS.values() for name in names}:
        if launch.flags[name].present and name not in _READS.get(target, ()):
            here = f", not with --target={target}" if target else ""
            raise UserError(f"--{name} goes with --target={' or '.join(_readers(name))}{here}")
    return target is not None


def launch(launch: Launch) -> int:
    """Runs this command where --target says, or writes the job that does.

    Returns:
      the exit status.

    Raises:
      UserError: if something cannot work there, before anything is created.
    """
    config, place, folder = launch.config, launch["target"], checkout_folder()
    own = {name: bool(launch.flags[name].boolean) for name in ("target", *_READS[place])}
    arguments = launch_line.without(launch.arguments, own)
    name = launch["name"] or launch_line.default_name(config.name)
    if place == "slurm":
        script = slurm.script(_slurm_job(launch, name, arguments))
        return _write(script, launch["output"])
    accelerator = launch["accelerator"]
    if not accelerator:
        raise UserError(f"--target={place} needs --accelerator=…, e.g. --accelerator=v5litepod-16")
    launch_line.check_workdir(launch["workdir"], place)
    checkout.check_data(config.data, folder)
    machine: dict[str, Any] = {
        "name": name,
        "accelerator": accelerator,
        "arguments": tuple(checkout.relative_config(arguments, folder)),
        "runtime_version": launch["runtime_version"],
        "spot": launch["spot"],
    }
    if place == "skypilot":
        task = skypilot.SkyTask(**machine, zone=launch["zone"] or "")
        return _write(skypilot.task(task), launch["output"])
    # With --runtime_version the accelerator may be of a kind that is not known here.
    if not launch["runtime_version"] or launch_line.is_known(accelerator):
        launch_line.runtime_version(accelerator)
        layout.check_batch(config, accelerators.find(accelerator).num_chips)
    if not launch["zone"]:
        raise UserError("--target=tpu-vm needs --zone=…, e.g. --zone=us-west4-a")
    options = ("zone", "project", "wait_hours", "max_preemptions", "keep")
    vm = tpu_vm.TpuVm(**machine, **{option: launch[option] for option in options})
    if launch["dry_run"]:
        print(tpu_vm.dry_run(vm))
        return 0
    return tpu_vm.run(vm, folder)


def _slurm_job(launch: Launch, name: str, arguments: list[str]) -> slurm.SlurmJob:
    return slurm.SlurmJob(
        name=name,
        command=(*command(), *arguments),
        folder=str(Path.cwd()),
        **{flag: launch[flag] for flag in ("nodes", "gpus_per_node", "partition", "time")},
    )


def _write(text: str, output: str | None) -> int:
    if output:
        write_whole(Path(output), text)
    else:
        print(text, end="")
    return 0
