"""The processes of one run: how they join, which of them writes, barriers."""

import contextlib
import glob
import importlib.util
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from transformer_jax import console
from transformer_jax.errors import UserError
from transformer_jax.parallel.peers import Peers
from transformer_jax.parallel.roll_call import roll_call

_HEARTBEAT_SECONDS = 30
_LEAVE_SECONDS = 3.0
_joined = False


def initialize(peers: Peers | None, *, wait_seconds: float) -> None:
    """Joins the processes of one run; must come before anything else asks jax for devices.

    Ends this process, with one line, if the others have not come after `wait_seconds`.

    Args:
      peers: the processes; None = those of a TPU slice, if this is one of its machines, or none.
      wait_seconds: how long to wait for the others.

    Raises:
      UserError: if they cannot be reached.
    """
    global _joined
    if peers is None and not _on_a_tpu():
        return
    found: dict[str, Any] = {}
    if peers is not None:
        if peers.number > 1:
            print(f"{peers} (from {peers.origin}: {peers.remedy})", file=sys.stderr, flush=True)
        roll_call(peers, wait_seconds=wait_seconds)
        local = None if peers.local_device is None else [peers.local_device]
        found = {"coordinator_address": peers.coordinator, "num_processes": peers.number}
        found |= {"process_id": peers.index, "local_device_ids": local}
    late = f"not all processes of this run joined within --wait_seconds={wait_seconds:g}"
    with _time_limit(wait_seconds, f"error: {late}: start it on all machines"):
        try:
            jax.distributed.initialize(
                **found,
                # Later than the time limit: jax would abort the process.
                initialization_timeout=math.ceil(wait_seconds) + 600,
                # A process stops with an error when another one has been dead for that long.
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            )
        except (RuntimeError, ValueError) as e:
            reason = str(e).splitlines()[0]
            raise UserError(f"the processes of this run cannot join: {reason}") from None
    if not is_writer():
        console.silence()
    _joined = True


@contextlib.contextmanager
def _time_limit(seconds: float, message: str) -> Iterator[None]:
    """Ends the process with a message if the block, which may be stuck in C++, takes longer."""

    def stop() -> None:
        print(message, file=sys.stderr, flush=True)
        os._exit(2)

    limit = threading.Timer(seconds, stop)
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()


def joined() -> bool:
    """Whether `initialize` has made this process one of several."""
    return _joined and jax.process_count() > 1


def let_others_leave() -> None:
    """In process 0, waits until the others have reported a mistake that all have made.

    They are aborted when process 0 ends.
    """
    if is_writer():
        time.sleep(_LEAVE_SECONDS)


def _on_a_tpu() -> bool:
    if os.environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu":
        return False
    devices = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(devices) and importlib.util.find_spec("libtpu") is not None


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
