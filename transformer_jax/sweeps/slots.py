"""A device for each worker of a sweep, so that no two of them share a GPU or a TPU chip.

The devices are counted without jax, which would take them. This imports no jax.
"""

import glob
import os
import shutil
import subprocess
from collections.abc import Mapping

from transformer_jax.console import log

GPUS, CHIPS = "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"
# What libtpu needs to give one chip of a host to a process that runs alone on it.
_ONE_CHIP = {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}


class Slots:
    """Hands out devices to workers, and takes them back."""

    def __init__(self, variable: str, devices: list[str], workers: int) -> None:
        """Takes the variable that selects devices, and their names; no devices = nothing to set."""
        self._variable = variable
        if devices and workers > len(devices):
            log(f"{workers} workers share {len(devices)} devices: {', '.join(devices)}")
        slots = max(workers, 1)
        self._free = [devices[n % len(devices)] for n in range(slots)] if devices else []
        self._taken: dict[str, str] = {}

    def take(self, name: str) -> dict[str, str]:
        """The environment of the worker of that name."""
        if not self._free:
            return {}
        device = self._taken[name] = self._free.pop(0)
        return {self._variable: device} | (_ONE_CHIP if self._variable == CHIPS else {})

    def give_back(self, name: str) -> None:
        """Frees the device of that worker for another one."""
        if name in self._taken:
            self._free.insert(0, self._taken.pop(name))


def find(workers: int, environment: Mapping[str, str] = os.environ) -> Slots:
    """The slots of this machine.

    A list that the environment has already is respected. A single worker keeps every device: it
    trains on all of them.
    """
    if workers == 1 or environment.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return Slots(GPUS, [], workers)
    for variable in (GPUS, CHIPS):
        if environment.get(variable):
            listed = [name.strip() for name in environment[variable].split(",")]
            return Slots(variable, listed, workers)
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    if chips:
        return Slots(CHIPS, [str(number) for number in range(len(chips))], workers)
    return Slots(GPUS, [str(number) for number in range(_count_gpus())], workers)


def _count_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return sum(line.startswith("GPU ") for line in lines)
