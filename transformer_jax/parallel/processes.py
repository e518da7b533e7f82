"""The processes of one run: how they join, which of them writes, barriers."""

import contextlib
import glob
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from transformer_jax import console
from transformer_jax.errors import UserError

_HEARTBEAT_SECONDS = 30


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes of one run; must come before anything else asks jax for devices.

    `coordinator` is "host:port" of process 0. Without it, Slurm's or Cloud TPU's environment
    describes the processes; elsewhere there is only one.

    Raises:
      UserError: if only some of the three are given, or the others cannot be reached.
    """
    given = (coordinator, num_processes, process_id)
    if any(x is not None for x in given) and any(x is None for x in given):
        raise UserError("--coordinator, --num_processes and --process_id go together")
    if coordinator is not None and not re.fullmatch(r"\S+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator} must be host:port, e.g. localhost:1234")
    if coordinator is None and not _in_a_cluster():
        return
    try:
        # A process stops with an error when another one has been dead for that long.
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as e:
        reason = str(e).splitlines()[0]
        raise UserError(f"the processes of this run cannot join: {reason}") from None
    if not is_writer():
        console.silence()


def joined() -> bool:
    """Whether `initialize` has made this process one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _in_a_cluster() -> bool:
    if os.environ.get("SLURM_NTASKS", "1") != "1" and "SLURM_PROCID" in os.environ:
        return True
    if os.environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return False
    on_tpu = bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
    return on_tpu and importlib.util.find_spec("libtpu") is not None


@contextlib.contextmanager
def writer_first() -> Iterator[None]:
    """Lets the writer run the block first, so that the other processes find its files."""
    if not is_writer():
        barrier("writer first")
    try:
        yield
    finally:  # also after an error: the others then raise it too, instead of waiting
        if is_writer():
            barrier("writer first")


def is_writer() -> bool:
    """Whether this process is the one that writes files and logs."""
    return jax.process_index() == 0


def facts() -> dict[str, Any]:
    """The devices: {"platform": "tpu", "kind": "TPU v4", "number": 8, "processes": 2}."""
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    return {
        "platform": devices[0].platform,
        "kind": ", ".join(kinds),
        "number": len(devices),
        "processes": jax.process_count(),
    }


def barrier(name: str) -> None:
    """Waits until every process arrives."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(number: int) -> int:
    """Returns the first process's `number` in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int64(number)))
