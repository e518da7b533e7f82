"""Accelerators that an experiment can be planned for: their names, chips and networks.

The speeds are published peaks, which no program reaches. This file imports no jax, because the
variables of `COMPILE_ONLY` must be in the environment before jax is imported.
"""

import dataclasses
import math
from typing import Any

from transformer_jax.errors import UserError, nearest

# The environment in which jax compiles for a TPU that is not attached: libtpu must not look for a
# TPU or for Cloud TPU's metadata service.
COMPILE_ONLY = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # such programs are written to it, but never read
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any: libtpu warns without one
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    # Takes a third of the time; memory and exchange are nearly the same (docs/scaling.md).
    "JAX_OPTIMIZATION_LEVEL": "O0",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """The published peaks of one chip."""

    name: str
    bfloat16_flops: float  # per second, in matmuls of bfloat16 arrays
    float32_flops: float  # of float32 arrays, in jax's default precision
    memory: float  # bytes
    memory_speed: float  # bytes per second
    link_speed: float  # bytes per second over one link to another chip, one way; 0 = no links


# TPUs: Cloud TPU's documentation (docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e), which sums
# all links in both directions: 400 GB/s over the 4 links of v5e, 1200 over the 6 of v5p, 800 over
# the 4 of v6e. The links of v4: 6 of 50 GB/s each way (Jouppi et al. 2023, "TPU v4: An Optically
# Reconfigurable Supercomputer", table 4). By default, a TPU multiplies float32 in bfloat16.
# H100: NVIDIA's datasheet of the SXM5, dense; float32 is TF32; NVLink one way.
_V4 = Chip("TPU v4", 275e12, 275e12, 32 * 2**30, 1200e9, 50e9)
_V5E = Chip("TPU v5e", 197e12, 197e12, 16 * 2**30, 819e9, 50e9)
_V5P = Chip("TPU v5p", 459e12, 459e12, 95 * 2**30, 2765e9, 100e9)
_V6E = Chip("TPU v6e", 918e12, 918e12, 32 * 2**30, 1638e9, 100e9)
_H100 = Chip("H100", 989e12, 494e12, 80e9, 3350e9, 450e9)
_CPU = Chip("this machine's CPU", 0, 0, 0, 0, 0)  # `plan` measures it


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A number of equal chips, connected by a network."""

    name: str  # as given to --accelerator
    platform: str  # "tpu", "gpu" or "cpu"
    chip: Chip
    shape: tuple[int, ...]  # the number of chips along each axis of the network
    links: int  # those of a chip that a collective keeps busy: two in a ring, one in a line

    @property
    def num_chips(self) -> int:
        """The number of chips along all axes."""
        return math.prod(self.shape)

    @property
    def topology(self) -> dict[str, Any]:
        """The arguments of `jax.experimental.topologies.get_topology_desc` for a TPU."""
        kind = self.name.rpartition("-")[0]
        size = "x".join(map(str, self.shape))
        options: dict[str, Any] = {}
        if kind == "v4":
            options = {"chip_config_name": "megacore"}  # two cores form one device
        elif self.shape in ((1, 1), (2, 4)):
            options = {"chips_per_host_bounds": [*self.shape, 1]}  # one host, not several of 2x2
        kind = kind.replace("v5litepod", "v5e")
        return {"topology_name": f"{kind}:{size}", "platform": "tpu", **options}


# The number in a name counts chips of v5e and v6e, and cores of v4 and v5p, two to a chip.
_SQUARES = [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
_FLAT = {math.prod(shape): shape for shape in _SQUARES}
_CUBES = {
    2 * math.prod(shape): shape
    for shape in [(2, 2, n) for n in (1, 2, 4)]
    + [(2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8)]
}
_KINDS = {
    "v4": (_V4, _CUBES),
    "v5litepod": (_V5E, _FLAT),
    "v5p": (_V5P, _CUBES),
    "v6e": (_V6E, _FLAT),
}


def _tpu(kind: str, number: int) -> Accelerator:
    chip, shapes = _KINDS[kind]
    shape = shapes[number]
    # On v5e and v6e an axis of 16 is a ring; on v4 and v5p every axis of whole cubes of 4.
    cubes = len(shape) == 3 and all(n % 4 == 0 for n in shape)
    links = sum(2 if cubes or n == 16 else int(n > 1) for n in shape)
    return Accelerator(f"{kind}-{number}", "tpu", chip, shape, links)


_KNOWN = {f"{kind}-{n}": _tpu(kind, n) for kind, (_, shapes) in _KINDS.items() for n in shapes} | {
    "h100": Accelerator("h100", "gpu", _H100, (1,), 0),
    "h100:8": Accelerator("h100:8", "gpu", _H100, (8,), 1),
    "cpu": Accelerator("cpu", "cpu", _CPU, (1,), 0),
}


def find(name: str) -> Accelerator:
    """The accelerator called `name`.

    Raises:
      UserError: if there is none; the message lists the known ones.
    """
    if name not in _KNOWN:
        sizes = [f"{kind}-{{{','.join(map(str, _KINDS[kind][1]))}}}" for kind in _KINDS]
        others = [other for other in _KNOWN if _KNOWN[other].platform != "tpu"]
        near = nearest(name, list(_KNOWN))
        raise UserError(f"--accelerator={name} is none of {', '.join(sizes + others)}{near}")
    return _KNOWN[name]
