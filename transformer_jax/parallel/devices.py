"""Which devices run a training step, and how: jit, pmap, or jit over a mesh.

`training.step.make_train_step` is written once, for a global batch. Here it is compiled with
`jax.jit` for one device, with `jax.pmap` for replicas, each of which takes its share of the rows,
or with `jax.jit` over a mesh, which divides the parameters as well. A state consists of global
arrays whenever it is created, saved, restored or evaluated, whichever of the three runs the step.
"""

import abc
import dataclasses
import functools
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.parallel import layout
from transformer_jax.parallel.layout import DATA, FSDP, REPLICA

Step = Callable[[Any, Any], tuple[Any, Any]]
Reduce = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """Devices that share independent rows, such as sentences to decode.

    Every process passes in the same arrays and gets the whole result.
    """

    mesh: Mesh

    def round_up(self, rows: int) -> int:
        """The smallest multiple of the number of devices that is at least `rows`."""
        return -(-rows // self.mesh.size) * self.mesh.size

    def put(self, rows: np.ndarray) -> jax.Array:
        """Divides the rows of a host array [B, ...] among the devices."""
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

    def replicate(self, tree: Any) -> Any:
        """Copies `tree` to every device."""
        return jax.device_put(tree, self.replicated)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of arrays that every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def divided(self, tree: Any) -> Any:
        """Inside a program: divides the rows of arrays [B, ...] among the devices, if they can."""
        rows = PartitionSpec(self.mesh.axis_names)

        def divide(x: jax.Array) -> jax.Array:
            evenly = x.ndim > 0 and x.shape[0] % self.mesh.size == 0
            sharding = NamedSharding(self.mesh, rows) if evenly else self.replicated
            return jax.lax.with_sharding_constraint(x, sharding)

        return jax.tree.map(divide, tree)

    def whole(self, tree: Any) -> Any:
        """Inside a program: every device holds all of these arrays."""
        return jax.lax.with_sharding_constraint(tree, self.replicated)

    def side_by_side(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Yields `function` of each item in their order, two of which run at a time on a CPU.

        Small programs leave the cores of a CPU idle for a third of their time, and so do their
        starts. Several devices need one order of programs. An item begins when the one before the
        last has been taken; the two that run when nobody wants more go on to their end, unseen.
        What a context manager of jax sets, such as its default precision, does not reach them.
        """
        cpu = self.mesh.size == 1 and self.mesh.devices.flat[0].platform == "cpu"
        if not cpu or os.cpu_count() == 1 or len(items) < 2:
            yield from map(function, items)
            return
        pool, running = ThreadPoolExecutor(max_workers=2), deque()
        try:
            for item in items:
                running.append(pool.submit(function, item))
                if len(running) == 2:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def compile(self, function: Callable) -> Callable:
        """`jax.jit`, with results on every device, so that every process can read them."""
        return jax.jit(function, out_shardings=self.replicated)


def one_device() -> DataParallel:
    """The first device of this process."""
    return DataParallel(Mesh(np.array(jax.local_devices()[:1]), ("device",)))


def all_devices() -> DataParallel:
    """Every device of every process."""
    return DataParallel(_mesh({"device": jax.device_count()}, jax.devices()))


@dataclasses.dataclass(frozen=True)
class Devices(abc.ABC):
    """The devices of a training run: how they compile the step, and hold its state and batches.

    A training step from start to end:

      step = devices.compile_step(make_step)
      state = devices.to_step(devices.create_state(create))
      batch = devices.put_batch(data.batch(0, devices.rows))
      state, metrics = step(state, batch)
      checkpoints.save(1, devices.from_step(state))

    Attributes:
      mesh: all devices.
      batch_rows: the number of rows of a global batch.
      description: the devices and the strategy, for a person.
    """

    mesh: Mesh
    batch_rows: int
    description: str

    @abc.abstractmethod
    def compile_step(self, make_step: Callable[[Reduce], Step]) -> Step:
        """Compiles `make_step(reduce)`, a function (state, batch) → (state, metrics).

        `reduce` turns the sums over the rows that the function sees into sums over the global
        batch. The compiled step donates the state: its buffers hold the new one.
        """

    @abc.abstractmethod
    def shardings(self, state: Any) -> Any:
        """Where each array of a state, or of its shapes, lives."""

    @property
    @abc.abstractmethod
    def rows(self) -> range:
        """The rows of the global batch that this process reads."""

    @abc.abstractmethod
    def put_batch(self, batch: Any) -> Any:
        """Moves this process's `rows` of a batch to where the step reads them."""

    @abc.abstractmethod
    def batch_shapes(self, batch: Any) -> Any:
        """The shapes that `put_batch` would give for a global batch of these shapes."""

    def to_step(self, state: Any) -> Any:
        """Turns a state of global arrays into what the step takes, without a copy."""
        return state

    def from_step(self, state: Any) -> Any:
        """The inverse of `to_step`."""
        return state

    def create_state(self, create: Callable[[], Any]) -> Any:
        """Calls `create` such that no device ever holds more than its share of the result."""
        shardings = self.shardings(jax.eval_shape(create))
        return jax.jit(create, out_shardings=shardings)()

    def put_state(self, state: Any) -> Any:
        """Moves a state to where it lives."""
        return jax.device_put(state, self.shardings(state))

    @property
    def data_parallel(self) -> DataParallel:
        """The same devices, for decoding."""
        return DataParallel(self.mesh)


def choose_devices(config: Config, *, compile_for: Sequence[jax.Device] | None = None) -> Devices:
    """The devices that `config.parallel` selects.

    Args:
      config: the experiment.
      compile_for: devices to compile for, which need not exist; None = those of this machine.

    Raises:
      UserError: if the sizes of the mesh do not fit the devices, the rows of a batch do not divide
        among them, or `model.attention` does not run on them.
    """
    parallel, processes = config.parallel, jax.process_count()
    devices = jax.devices() if compile_for is None else compile_for
    layout.check_attention(config, devices[0].platform)
    if parallel.strategy == "single" and processes > 1:
        raise UserError(
            f"parallel.strategy='single' is for one process, and there are {processes}: "
            "give --config.parallel.strategy=auto"
        )
    strategy = layout.strategy_of(parallel, len(devices))
    sizes = layout.sizes(parallel, len(devices))
    layout.check_batch(config, len(devices))
    if strategy == "single":
        first = jax.local_devices()[:1] if compile_for is None else compile_for[:1]
        mesh = Mesh(np.array(first), (REPLICA,))
    elif strategy == "pmap":
        mesh = Mesh(np.array(devices), (REPLICA,))
    else:
        mesh = _mesh(sizes, devices)
    shape = ", ".join(f"{name} {size}" for name, size in sizes.items() if name != REPLICA)
    of = f" of {processes} processes" if processes > 1 else ""
    how = {"single": "jit", "pmap": "pmap", "mesh": f"jit over a mesh ({shape})"}[strategy]
    number = f"{mesh.size} {devices[0].device_kind} device{'s' if mesh.size > 1 else ''}"
    build = _Pmap if strategy == "pmap" else _Jit
    return build(mesh, config.data.batch_rows, f"{number}{of}, {how}")


def _mesh(sizes: dict[str, int], devices: Sequence[jax.Device]) -> Mesh:
    # Auto: linen modules do not type their arrays by axes.
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)


class _Jit(Devices):
    """One program over a mesh of one or many devices, which the compiler partitions."""

    def compile_step(self, make_step: Callable[[Reduce], Step]) -> Step:
        step = make_step(lambda sums: sums)  # the program sees every row

        def sharded_step(state: Any, batch: Any) -> tuple[Any, Any]:
            # Parameters are whole along fsdp while they are used. Otherwise the compiler divides
            # activations by their width, and every device sees every row.
            params = jax.tree_util.tree_map_with_path(self._gathered, state.params)
            state, metrics = step(state.replace(params=params), batch)
            # The new state lives where the old one did, which the compiler need not choose.
            return jax.lax.with_sharding_constraint(state, self.shardings(state)), metrics

        return jax.jit(sharded_step, donate_argnums=0)

    def shardings(self, state: Any) -> Any:
        return jax.tree_util.tree_map_with_path(self._sharding, state)

    def _sharding(self, path: tuple[Any, ...], x: Any) -> NamedSharding:
        axes: tuple[str | None, ...] = ()
        if x.ndim and self.mesh.size > 1:
            axes = layout.parameter_axes(path[-1].key, x.shape, dict(self.mesh.shape))
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def _gathered(self, path: tuple[Any, ...], x: Any) -> Any:
        axes = [None if axis == FSDP else axis for axis in self._sharding(path, x).spec]
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*axes)))

    @property
    def _by_row(self) -> NamedSharding:
        axes = tuple(name for name in (DATA, FSDP) if name in self.mesh.shape)
        return NamedSharding(self.mesh, PartitionSpec(axes or None))

    @functools.cached_property
    def rows(self) -> range:
        indices = self._by_row.addressable_devices_indices_map((self.batch_rows,)).values()
        bounds = [index[0].indices(self.batch_rows)[:2] for index in indices]
        return range(min(start for start, _ in bounds), max(stop for _, stop in bounds))

    def put_batch(self, batch: Any) -> Any:
        def put(x: np.ndarray) -> jax.Array:
            def read(index: tuple[slice, ...]) -> np.ndarray:
                start, stop, _ = index[0].indices(self.batch_rows)
                return x[start - self.rows.start : stop - self.rows.start]

            shape = self.batch_rows, *x.shape[1:]
            return jax.make_array_from_callback(shape, self._by_row, read)

        return jax.tree.map(put, batch)

    def batch_shapes(self, batch: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._by_row), batch
        )


class _Pmap(Devices):
    """One program per device, for its share of the rows; every device holds the whole state."""

    def compile_step(self, make_step: Callable[[Reduce], Step]) -> Step:
        # Sums and counts are added over the replicas; the step divides once, by the global count.
        step = make_step(lambda sums: jax.lax.psum(sums, REPLICA))
        return jax.pmap(
            step,
            axis_name=REPLICA,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=0,
            devices=list(self.mesh.devices.flat),
        )

    def shardings(self, state: Any) -> Any:
        return jax.tree.map(lambda x: self.data_parallel.replicated, state)

    @property
    def rows(self) -> range:
        share = self.batch_rows // jax.process_count()
        first = share * jax.process_index()
        return range(first, first + share)

    def put_batch(self, batch: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(jax.local_device_count(), -1, *x.shape[1:]), batch)

    def batch_shapes(self, batch: Any) -> Any:
        leading = self.mesh.size, self.batch_rows // self.mesh.size
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*leading, *x.shape[1:]), x.dtype), batch
        )

    def to_step(self, state: Any) -> Any:
        # pmap takes arrays that belong to this process alone.
        own = Mesh(np.array(jax.local_devices()), (REPLICA,))
        return _over(NamedSharding(own, PartitionSpec()), state)

    def from_step(self, state: Any) -> Any:
        return _over(self.data_parallel.replicated, state)


def _over(sharding: NamedSharding, state: Any) -> Any:
    """The same replicas of each array, seen as an array over other devices."""

    def see(x: jax.Array) -> jax.Array:
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

    return jax.tree.map(see, state)
