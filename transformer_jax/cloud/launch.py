"""The same launch line elsewhere: `--target=tpu-vm` runs it; slurm and skypilot write its job.

Importing this defines the flags below. None of them reaches the run: it gets the other ones.
"""

import sys
from pathlib import Path

from absl import flags

from transformer_jax.cloud import launch_line, skypilot, slurm, tpu_vm
from transformer_jax.config.checks import check_config
from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.parallel import layout
from transformer_jax.planning import accelerators
from transformer_jax.storage import write_whole

# Which flags go with which --target.
_FLAGS_OF = {
    "tpu-vm": (
        *("name", "zone", "project", "accelerator", "runtime_version", "spot"),
        *("wait_hours", "max_preemptions", "keep", "dry_run"),
    ),
    "slurm": ("name", "nodes", "gpus_per_node", "partition", "time", "output"),
    "skypilot": ("name", "zone", "accelerator", "runtime_version", "spot", "output"),
}
# Which of them go with a mode that needs no target.
_ALONE = {"plan": ("accelerator",), "sweep": ("accelerator", "dry_run")}
_TARGET = flags.DEFINE_enum("target", None, list(_FLAGS_OF), "Where, if not here.")
_NAME = flags.DEFINE_string("name", None, "Of the machine or the job; the experiment's by default.")
_ZONE = flags.DEFINE_string("zone", None, "tpu-vm, skypilot: Google Cloud's, e.g. us-west4-a.")
_PROJECT = flags.DEFINE_string("project", "", "tpu-vm: Google Cloud's; gcloud's by default.")
_ACCELERATOR = flags.DEFINE_string(
    "accelerator",
    None,
    "tpu-vm, skypilot, --mode=plan: e.g. v5litepod-16; skypilot also A100:8, plan also h100, cpu; "
    "--mode=sweep --dry_run: to estimate hours.",
)
_RUNTIME_VERSION = flags.DEFINE_string(
    "runtime_version", "", "tpu-vm, skypilot: the machine's software; by the accelerator."
)
_SPOT = flags.DEFINE_bool("spot", False, "tpu-vm, skypilot: cheaper, and may be taken away.")
_WAIT_HOURS = flags.DEFINE_integer(
    "wait_hours", 24, "tpu-vm: how long to queue for the machine.", lower_bound=1
)
_MAX_PREEMPTIONS = flags.DEFINE_integer(
    "max_preemptions", 20, "tpu-vm: machines taken away before giving up.", lower_bound=0
)
_KEEP = flags.DEFINE_bool("keep", False, "tpu-vm: leave the machine there at the end.")
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "tpu-vm: print the commands, sweep: the points and their cost; run none."
)
_NODES = flags.DEFINE_integer("nodes", 1, "slurm: machines.", lower_bound=1)
_GPUS_PER_NODE = flags.DEFINE_integer(
    "gpus_per_node", 1, "slurm: GPUs of each; 0 = CPUs alone.", lower_bound=0
)
_PARTITION = flags.DEFINE_string("partition", "", "slurm: the cluster's default by default.")
_TIME = flags.DEFINE_string("time", "", "slurm: the limit, e.g. 24:00:00; then it is queued again.")


def wanted(mode: str) -> bool:
    """Whether --target is given.

    Args:
      mode: of launch.py; with some, --accelerator and --dry_run need no target.

    Raises:
      UserError: if a flag is given that does not go with --target, or goes with it alone.
    """
    own = dict.fromkeys(name for names in _FLAGS_OF.values() for name in names)
    alone = ("output", *_ALONE.get(mode, ()))  # --output is translate's, too
    goes = _FLAGS_OF.get(_TARGET.value, alone)
    for name in own:
        if flags.FLAGS[name].present and name not in goes:
            places = [place for place, names in _FLAGS_OF.items() if name in names]
            here = f", not with --target={_TARGET.value}" if _TARGET.value else ""
            modes = " or ".join(m for m, names in _ALONE.items() if name in names)
            other = f", or with --mode={modes}" if modes else ""
            raise UserError(f"--{name} goes with --target={' or '.join(places)}{other}{here}")
    return _TARGET.value is not None


def launch(
    config: Config, checkout: Path, mode: str, workdir: str | None, output: str | None
) -> int:
    """Runs this launch line where --target says, or writes the job that does.

    Args:
      config: the experiment, whose name is the default of --name.
      checkout: the folder of launch.py.
      mode, workdir, output: the flags of launch.py; `output` is the file to write, else stdout.

    Returns:
      the exit status.

    Raises:
      UserError: if something cannot work there; before anything is made.
    """
    place = _TARGET.value
    if mode not in ("train", "evaluate"):
        raise UserError(f"--target={place} is for --mode=train and evaluate, not --mode={mode}")
    check_config(config)
    own = {"target", *_FLAGS_OF[place]}
    arguments = launch_line.without(sys.argv[1:], own)
    name = _NAME.value or launch_line.default_name(config.name)
    if place == "slurm":
        job = slurm.SlurmJob(
            name=name,
            command=(sys.executable, sys.argv[0], *arguments),
            folder=str(Path.cwd()),
            nodes=_NODES.value,
            gpus_per_node=_GPUS_PER_NODE.value,
            partition=_PARTITION.value,
            time=_TIME.value,
        )
        return _write(slurm.script(job), output)
    if not _ACCELERATOR.value:
        raise UserError(f"--target={place} needs --accelerator=…, e.g. --accelerator=v5litepod-16")
    launch_line.check_workdir(workdir, place)
    launch_line.check_data(config.data, checkout)
    arguments = launch_line.from_checkout(arguments, checkout)
    machine = {
        "name": name,
        "accelerator": _ACCELERATOR.value,
        "arguments": tuple(arguments),
        "runtime_version": _RUNTIME_VERSION.value,
        "spot": _SPOT.value,
    }
    if place == "skypilot":
        return _write(skypilot.task(skypilot.SkyTask(**machine, zone=_ZONE.value or "")), output)
    # With --runtime_version it may be of a kind that is not known here.
    if not _RUNTIME_VERSION.value or launch_line.is_known(_ACCELERATOR.value):
        launch_line.runtime_version(_ACCELERATOR.value)
        layout.check_batch(config, accelerators.find(_ACCELERATOR.value).num_chips)
    if not _ZONE.value:
        raise UserError("--target=tpu-vm needs --zone=…, e.g. --zone=us-west4-a")
    vm = tpu_vm.TpuVm(
        **machine,
        zone=_ZONE.value,
        project=_PROJECT.value,
        wait_hours=_WAIT_HOURS.value,
        max_preemptions=_MAX_PREEMPTIONS.value,
        keep=_KEEP.value,
    )
    if _DRY_RUN.value:
        print(tpu_vm.dry_run(vm))
        return 0
    return tpu_vm.run(vm, checkout)


def _write(text: str, output: str | None) -> int:
    if output:
        write_whole(Path(output), text)
    else:
        print(text, end="")
    return 0
