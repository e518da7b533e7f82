"""Which devices share the work: the only file that knows devices exist.

`make_train_step` is written once, for a global batch. Here it runs under `jax.jit` on one device,
or under `jax.pmap` as replicas on several, each with its share of the rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from transformer_jax.config import ParallelConfig, UserError

Step = Callable[[Any, Any], tuple[Any, Any]]
MakeStep = Callable[..., Step]


@dataclasses.dataclass(frozen=True)
class Devices:
    """How to run a step, and how to move what it reads and writes.

    Attributes:
      compile: make_step → the compiled step; the state is donated. `make_step` takes `reduce`.
      put_state: a state on the host or one device → as the step takes it.
      put_batch: a host batch [B, ...] → as the step takes it.
      one_copy: a state, or anything the step returns → one copy of it on one device.
      description: for a person.
    """

    compile: Callable[[MakeStep], Step]
    put_state: Callable[[Any], Any]
    put_batch: Callable[[Any], Any]
    one_copy: Callable[[Any], Any]
    description: str


def choose(parallel: ParallelConfig, *, batch_rows: int, accumulate: int = 1) -> Devices:
    """The devices that `parallel.strategy` asks for.

    Args:
      parallel: the strategy.
      batch_rows: rows of a global batch.
      accumulate: micro-batches that each replica cuts its rows into.

    Raises:
      UserError: if the rows of a batch do not divide by the replicas and their micro-batches, or
        on several hosts.
    """
    if jax.process_count() > 1:  # each host would read the whole batch as its own
        raise UserError(f"{jax.process_count()} hosts: training runs on one host so far")
    number = jax.local_device_count()
    replicas = parallel.strategy == "pmap" or (parallel.strategy == "auto" and number > 1)
    if not replicas:
        return _single()
    if batch_rows % (number * accumulate):
        micro = f" times train.accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(f"data.batch_rows={batch_rows} is not divisible by {number} devices{micro}")
    return _pmap(number)


def _single() -> Devices:
    return Devices(
        compile=lambda make_step: jax.jit(make_step(), donate_argnums=0),
        put_state=lambda state: state,
        put_batch=jax.device_put,
        one_copy=lambda tree: tree,
        description=f"1 {jax.devices()[0].device_kind} device, jit",
    )


def _pmap(number: int) -> Devices:
    def compile_step(make_step: MakeStep) -> Step:
        # Sums and counts are added over replicas; the step divides once, by the global count.
        step = make_step(lambda sums: jax.lax.psum(sums, "replica"))
        return jax.pmap(step, axis_name="replica", donate_argnums=0)

    def replicate(x: Any) -> jax.Array:
        return jnp.broadcast_to(x, (number, *jnp.shape(x)))

    def split(x: Any) -> Any:
        return x.reshape(number, -1, *x.shape[1:])

    def first(x: jax.Array) -> jax.Array:
        # Not x[0]: indexing is itself a program on all devices.
        return x.addressable_shards[0].data[0]

    return Devices(
        compile=compile_step,
        put_state=lambda state: jax.tree.map(replicate, state),
        put_batch=lambda batch: jax.tree.map(split, batch),
        one_copy=lambda tree: jax.tree.map(first, tree),
        description=f"{number} {jax.devices()[0].device_kind} devices, pmap",
    )
