"""A device for each worker of a sweep, so that no two workers share a GPU or a TPU chip.

Devices are counted without jax, which would reserve them.
"""

import glob
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from transformer_jax.console import log

GPUS, CHIPS = "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"
# libtpu needs these to give one chip of a host to a process that runs alone on it.
_ONE_CHIP = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}


class Slots:
    """Assigns devices to workers, by the workers' names; without devices, nothing."""

    def __init__(self, variable: str, devices: Sequence[str]) -> None:
        """`variable` is the environment variable that selects `devices`."""
        self._variable, self._devices = variable, devices
        self._taken: dict[str, str] = {}

    def take(self, worker: str) -> dict[str, str]:
        """The variables that give `worker` a device: one that as few others have as possible."""
        if not self._devices:
            return {}
        in_use = list(self._taken.values())
        device = self._taken[worker] = min(self._devices, key=in_use.count)
        return {self._variable: device} | (_ONE_CHIP if self._variable == CHIPS else {})

    def give_back(self, worker: str) -> None:
        """Frees the device of `worker`."""
        self._taken.pop(worker, None)


def find(workers: int, environment: Mapping[str, str] = os.environ) -> Slots:
    """The devices of this machine, or those that `environment` lists, for so many workers.

    A single worker gets no device of its own: it trains on all of them.
    """
    variable, devices = _visible(environment)
    if workers == 1:
        devices = []
    if devices and workers > len(devices):
        log(f"{workers} workers share {len(devices)} devices: {', '.join(devices)}")
    return Slots(variable, devices)


def _visible(environment: Mapping[str, str]) -> tuple[str, list[str]]:
    if environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return GPUS, []
    for variable in (GPUS, CHIPS):
        names = [name.strip() for name in environment.get(variable, "").split(",")]
        if names[0] not in ("", "-1"):
            return variable, names
    gpus = 0 if GPUS in environment else _count_gpus()  # "" and -1 hide all GPUs
    chips = len(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))
    return (GPUS if gpus else CHIPS), [str(number) for number in range(gpus or chips)]


def _count_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    listed = subprocess.run([program, "-L"], capture_output=True, text=True).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())
