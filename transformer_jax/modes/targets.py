"""--target: the same command elsewhere. tpu-vm runs it; slurm and skypilot write its job."""

from pathlib import Path
from typing import Any

from absl import flags
from absl.flags import FlagValues

from transformer_jax.cloud import launch_line, skypilot, slurm, tpu_vm
from transformer_jax.config.experiment_files import checkout_folder
from transformer_jax.errors import UserError
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


def define(values: FlagValues) -> None:
    """Defines --target and the flags that go with it."""
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    own = {"flag_values": values}
    flags.DEFINE_enum("target", None, list(_READS), "Where to run (default: this machine).", **own)
    text("name", None, "--target: name of the VM or job (default: the experiment's).", **own)
    text("output", None, "--target=slurm, skypilot: file for the job (default: stdout).", **own)
    text("zone", None, "--target=tpu-vm, skypilot: Google Cloud zone, e.g. us-west4-a.", **own)
    text("project", "", "--target=tpu-vm: Google Cloud project (default: gcloud's).", **own)
    text(
        "accelerator",
        None,
        "--target=tpu-vm, skypilot: e.g. v5litepod-16; skypilot also e.g. A100:8.",
        **own,
    )
    text(
        "runtime_version",
        "",
        "--target=tpu-vm, skypilot: software of the VM (default: by the accelerator).",
        **own,
    )
    flags.DEFINE_bool(
        "spot",
        False,
        "--target=tpu-vm, skypilot: use spot capacity: cheaper, but it may be reclaimed.",
        **own,
    )
    whole("wait_hours", 24, "--target=tpu-vm: hours to queue for the VM.", lower_bound=1, **own)
    whole(
        "max_preemptions",
        20,
        "--target=tpu-vm: number of reclaimed VMs after which to give up.",
        lower_bound=0,
        **own,
    )
    flags.DEFINE_bool("keep", False, "--target=tpu-vm: keep the VM at the end.", **own)
    flags.DEFINE_bool("dry_run", False, "--target=tpu-vm: print the commands and run none.", **own)
    whole("nodes", 1, "--target=slurm: number of machines.", lower_bound=1, **own)
    whole(
        "gpus_per_node",
        1,
        "--target=slurm: GPUs of each machine; 0 = CPUs only.",
        lower_bound=0,
        **own,
    )
    text("partition", "", "--target=slurm: partition (default: the cluster's).", **own)
    text(
        "time",
        "",
        "--target=slurm: time limit, e.g. 24:00:00; the job is requeued after it.",
        **own,
    )


def wanted(launch: Launch) -> bool:
    """Whether --target is given.

    Raises:
      UserError: if a flag is given that belongs to another target, or to any.
    """
    target = launch["target"]
    for name in {name: None for names in _READS.values() for name in names}:
        if launch.flags[name].present and name not in _READS.get(target, ()):
            places = " or ".join(place for place, names in _READS.items() if name in names)
            here = f", not with --target={target}" if target else ""
            raise UserError(f"--{name} goes with --target={places}{here}")
    return target is not None


def launch(launch: Launch) -> int:
    """Runs this command where --target says, or writes the job that does.

    Returns:
      the exit status.

    Raises:
      UserError: if something cannot work there, before anything is created.
    """
    config, place, checkout = launch.config, launch["target"], checkout_folder()
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
    launch_line.check_data(config.data, checkout)
    machine: dict[str, Any] = {
        "name": name,
        "accelerator": accelerator,
        "arguments": tuple(launch_line.from_checkout(arguments, checkout)),
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
    return tpu_vm.run(vm, checkout)


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
