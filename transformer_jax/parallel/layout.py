"""How many ways a batch and the parameters are cut: arithmetic, for devices that need not be there.

This imports no jax: the launcher asks it before it buys a machine.
"""

import math

from transformer_jax.config.options import Config, ParallelConfig
from transformer_jax.errors import UserError

DATA, FSDP, TENSOR, REPLICA = "data", "fsdp", "tensor", "replica"


def strategy_of(parallel: ParallelConfig, devices: int) -> str:
    """ "single", "pmap" or "mesh": what `parallel.strategy` is on so many devices."""
    if parallel.strategy != "auto":
        return parallel.strategy
    if (parallel.data, parallel.fsdp, parallel.tensor) != (-1, 1, 1):
        return "mesh"
    return "pmap" if devices > 1 else "single"


def sizes(parallel: ParallelConfig, devices: int) -> dict[str, int]:
    """The axes of the mesh and their sizes: {"replica": …}, or {"data": …, "fsdp": …, "tensor": …}.

    Raises:
      UserError: if the product of the sizes is not the number of devices.
    """
    strategy = strategy_of(parallel, devices)
    if strategy != "mesh":
        return {REPLICA: devices if strategy == "pmap" else 1}
    given = {name: getattr(parallel, name) for name in (DATA, FSDP, TENSOR)}
    known = math.prod(size for size in given.values() if size != -1)
    said = ", ".join(f"parallel.{name}={size}" for name, size in given.items())
    if list(given.values()).count(-1) > 1:
        raise UserError(f"{said}: at most one of them can be -1, the rest of the devices")
    if devices % known or (-1 not in given.values() and known != devices):
        raise UserError(f"{said} do not fit {devices} devices: their product has to be that")
    return {name: devices // known if size == -1 else size for name, size in given.items()}


def check_batch(config: Config, devices: int) -> None:
    """Refuses a configuration whose mesh does not fit so many devices, or its batch that mesh.

    Raises:
      UserError: see `sizes` and `check_rows`.
    """
    rows, accumulate = config.data.batch_rows, config.train.accumulate
    check_rows(sizes(config.parallel, devices), batch_rows=rows, accumulate=accumulate)


def check_rows(sizes: dict[str, int], *, batch_rows: int, accumulate: int) -> None:
    """Refuses a batch whose rows do not divide.

    Args:
      sizes: of the mesh.
      batch_rows: rows of a global batch.
      accumulate: micro-batches that each replica cuts its rows into.

    Raises:
      UserError: if they do not divide by the replicas and their micro-batches.
    """
    replicas = math.prod(sizes.get(name, 1) for name in (REPLICA, DATA, FSDP))
    if batch_rows % (replicas * accumulate):
        micro = f" times train.accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(
            f"data.batch_rows={batch_rows} is not divisible by {replicas} devices{micro}"
        )
