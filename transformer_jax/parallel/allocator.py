"""Memory that is freed stays with the process, so that the next step need not ask for it again.

glibc returns large arrays to the system as soon as they are freed. On a CPU these are the arrays of
a step, hundreds of megabytes, which the system clears and maps again in the next: a sixth of the
step's time. This file does not import jax, whose threads would bring arenas of their own.
"""

import ctypes
import importlib.util
import os

_ARENA_MAX, _MMAP_MAX, _TRIM_THRESHOLD = -8, -4, -1  # of malloc.h
_NEVER = -1
_ACCELERATORS = ("jax_plugins", "libtpu")  # packages


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, where jax computes on a CPU; whether it does.

    To be called before jax is imported. glibc's own variables come first: a MALLOC_… variable or
    GLIBC_TUNABLES in the environment decides everything, and MALLOC_ARENA_MAX=0 is its default.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen or not _computes_on_cpu():
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (other libraries have a mallopt that does nothing)
    except (OSError, TypeError, AttributeError):
        return False
    values = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER}
    return all(libc.mallopt(name, value) for name, value in values.items())


def _computes_on_cpu() -> bool:
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms.split(",")[0].strip().lower() == "cpu"
    return not any(map(importlib.util.find_spec, _ACCELERATORS))
