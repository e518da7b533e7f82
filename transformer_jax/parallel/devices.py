"""Which devices share the work: the only file that knows devices, and processes, exist.

`make_train_step` is written once, for a global batch. Here it runs under `jax.jit` on one device,
under `jax.pmap` as replicas on several, each with its share of the rows, or under `jax.jit` over a
mesh, where parameters are sharded too. Whichever it is, a state is a tree of global arrays when it
is made, saved, restored and evaluated.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from transformer_jax.config.options import ParallelConfig
from transformer_jax.errors import UserError
from transformer_jax.parallel import layout
from transformer_jax.parallel.layout import DATA, FSDP, REPLICA, TENSOR

Step = Callable[[Any, Any], tuple[Any, Any]]
MakeStep = Callable[..., Step]
# How a parameter is cut, by the last name of its path: the axes of the mesh that its dimensions are
# divided among. "tensor" takes heads, the inner width of the feed-forward network and the
# vocabulary, so that only activations of width D are exchanged (Shoeybi et al. 2019); "fsdp" takes
# D (Rajbhandari et al. 2020). What is small is replicated.
_RULES: dict[str, tuple[str | None, ...]] = {
    "embedding": (TENSOR, FSDP),
    "source_embedding": (TENSOR, FSDP),
    "target_embedding": (TENSOR, FSDP),
    "softmax": (TENSOR, FSDP),
    "logits_bias": (TENSOR,),
    "source_positions": (None, FSDP),
    "target_positions": (None, FSDP),
    "query_kernel": (FSDP, TENSOR, None),
    "key_kernel": (FSDP, TENSOR, None),
    "value_kernel": (FSDP, TENSOR, None),
    "query_bias": (TENSOR, None),
    "key_bias": (TENSOR, None),
    "value_bias": (TENSOR, None),
    "output_kernel": (TENSOR, None, FSDP),
    "output_bias": (None,),
    "w1": (FSDP, TENSOR),
    "b1": (TENSOR,),
    "w2": (TENSOR, FSDP),
    "b2": (None,),
    "scale": (None,),
    "bias": (None,),
}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Spreads rows that do not know of each other (sentences to decode) over all devices.

    Every process gives the same arrays, and gets the whole result.
    """

    mesh: Mesh

    def round_up(self, rows: int) -> int:
        """The least number of rows, at least `rows`, that divides by the devices."""
        return -(-rows // self.mesh.size) * self.mesh.size

    def put(self, rows: np.ndarray) -> jax.Array:
        """[B, ...] on the host → shared out among the devices."""
        return _global(rows, NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names)))

    def replicate(self, tree: Any) -> Any:
        """The same on every device."""
        return jax.device_put(tree, self.replicated)

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what is the same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def compile(self, function: Callable) -> Callable:
        """`jax.jit` whose results are on every device, hence readable in every process."""
        return jax.jit(function, out_shardings=self.replicated)


@dataclasses.dataclass(frozen=True)
class Devices:
    """How to run a step, and how to move what it reads.

    Attributes:
      mesh: of all devices.
      compile: make_step → the compiled step; the state is donated. `make_step` takes `reduce`.
      shardings: a state, or its shapes → where each of its arrays lives.
      put_batch: this process's `rows` of a batch → as the step takes them.
      batch_shapes: shapes of a global batch → as the step takes it, to compile without one.
      to_step: a state of global arrays → as the step takes it. Nothing is copied.
      from_step: the reverse.
      rows: which rows of the global batch this process reads.
      description: for a person.
    """

    mesh: Mesh
    compile: Callable[[MakeStep], Step]
    shardings: Callable[[Any], Any]
    put_batch: Callable[[Any], Any]
    batch_shapes: Callable[[Any], Any]
    to_step: Callable[[Any], Any]
    from_step: Callable[[Any], Any]
    rows: range
    description: str

    def create_state(self, create: Callable[[], Any]) -> Any:
        """What `create` returns, made where it lives: no device holds more than its share."""
        shardings = self.shardings(jax.eval_shape(create))
        return jax.jit(create, out_shardings=shardings)()

    def put_state(self, state: Any) -> Any:
        """A state, wherever it is, where it lives."""
        return jax.device_put(state, self.shardings(state))

    @property
    def spread(self) -> Rows:
        """The same devices, for decoding."""
        return Rows(self.mesh)


def one_device() -> Rows:
    """The first device of this process."""
    return Rows(Mesh(np.array(jax.local_devices()[:1]), ("device",)))


def all_devices() -> Rows:
    """Every device of every process."""
    return Rows(_mesh({"device": jax.device_count()}, jax.devices()))


def choose_devices(
    parallel: ParallelConfig,
    *,
    batch_rows: int,
    accumulate: int = 1,
    compile_for: Sequence[jax.Device] | None = None,
) -> Devices:
    """The devices that `parallel.strategy` asks for.

    Args:
      parallel: the strategy, and the sizes of a mesh.
      batch_rows: rows of a global batch.
      accumulate: micro-batches that each replica cuts its rows into.
      compile_for: devices that need not be there, to compile for them and no more; None = those
        that are here.

    Raises:
      UserError: if the rows of a batch do not divide by the replicas and their micro-batches, or
        the sizes of the mesh do not fit the devices.
    """
    processes = jax.process_count()
    devices = jax.devices() if compile_for is None else compile_for
    if parallel.strategy == "single" and processes > 1:
        raise UserError(f"parallel.strategy='single' is not for {processes} processes")
    strategy = layout.strategy_of(parallel, len(devices))
    sizes = layout.sizes(parallel, len(devices))
    if strategy == "single":
        first = jax.local_devices()[:1] if compile_for is None else compile_for[:1]
        mesh = Mesh(np.array(first), (REPLICA,))
    elif strategy == "pmap":
        mesh = Mesh(np.array(devices), (REPLICA,))
    else:
        mesh = _mesh(sizes, devices)
    layout.check_rows(sizes, batch_rows=batch_rows, accumulate=accumulate)
    build = _pmap if strategy == "pmap" else _jit
    kind, number = devices[0].device_kind, mesh.size
    shape = ", ".join(f"{name} {size}" for name, size in sizes.items() if name != REPLICA)
    of = f" of {processes} processes" if processes > 1 else ""
    how = {"single": "jit", "pmap": "pmap", "mesh": f"jit over a mesh ({shape})"}[strategy]
    description = f"{number} {kind} device{'s' if number > 1 else ''}{of}, {how}"
    return dataclasses.replace(build(mesh, batch_rows), description=description)


def parameter_spec(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> PartitionSpec:
    """How the parameter of that (last) name is cut over a mesh of those sizes.

    A dimension that does not divide by its axis is not cut: 37,000 pieces among 16.

    Raises:
      ValueError: for a name without a rule, or of another rank.
    """
    if name not in _RULES or len(_RULES[name]) != len(shape):
        raise ValueError(f"there is no rule for how to cut the parameter {name} of shape {shape}")
    cut = zip(_RULES[name], shape, strict=True)
    return PartitionSpec(*(axis if axis and n % sizes[axis] == 0 else None for axis, n in cut))


def _mesh(sizes: dict[str, int], devices: Sequence[jax.Device]) -> Mesh:
    # Auto: linen modules do not type their arrays by axes.
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)


def _global(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A global array of which every process gives the whole."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _jit(mesh: Mesh, batch_rows: int) -> Devices:
    """One program over a mesh of one or many devices, partitioned by the compiler."""
    sizes = dict(mesh.shape)
    batch_axes = tuple(name for name in (DATA, FSDP) if name in sizes)
    by_row = NamedSharding(mesh, PartitionSpec(batch_axes or None))
    rows = _rows_of_this_process(by_row, batch_rows)

    def sharding(path: tuple[Any, ...], x: Any) -> NamedSharding:
        spec = PartitionSpec()
        if x.ndim and mesh.size > 1:
            spec = parameter_spec(path[-1].key, x.shape, sizes)
        return NamedSharding(mesh, spec)

    def shardings(state: Any) -> Any:
        return jax.tree_util.tree_map_with_path(sharding, state)

    def gathered(path: tuple[Any, ...], x: Any) -> Any:
        cut = [None if axis == FSDP else axis for axis in sharding(path, x).spec]
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*cut)))

    def compile_step(make_step: MakeStep) -> Step:
        step = make_step()

        def kept(state: Any, batch: Any) -> tuple[Any, Any]:
            # Whole along fsdp while they are used, or the compiler cuts activations by their width,
            # and every device sees every row.
            params = jax.tree_util.tree_map_with_path(gathered, state.params)
            state, metrics = step(state.replace(params=params), batch)
            # Or the compiler might leave the new state elsewhere than the old one was.
            return jax.lax.with_sharding_constraint(state, shardings(state)), metrics

        return jax.jit(kept, donate_argnums=0)

    def put_batch(batch: Any) -> Any:
        def put(x: np.ndarray) -> jax.Array:
            def read(index: tuple[slice, ...]) -> np.ndarray:
                start, stop, _ = index[0].indices(batch_rows)
                return x[start - rows.start : stop - rows.start]

            return jax.make_array_from_callback((batch_rows, *x.shape[1:]), by_row, read)

        return jax.tree.map(put, batch)

    def shapes(batch: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_row), batch
        )

    return Devices(mesh, compile_step, shardings, put_batch, shapes, _same, _same, rows, "")


def _same(state: Any) -> Any:
    return state


def _rows_of_this_process(sharding: NamedSharding, batch_rows: int) -> range:
    indices = sharding.addressable_devices_indices_map((batch_rows,)).values()
    bounds = [index[0].indices(batch_rows)[:2] for index in indices]
    return range(min(start for start, _ in bounds), max(stop for _, stop in bounds))


def _pmap(mesh: Mesh, batch_rows: int) -> Devices:
    """A program on each device, for its rows; the state is the same on all of them."""
    share = batch_rows // jax.process_count()
    first = share * jax.process_index()
    replicated = NamedSharding(mesh, PartitionSpec())

    def compile_step(make_step: MakeStep) -> Step:
        # Sums and counts are added over replicas; the step divides once, by the global count.
        step = make_step(lambda sums: jax.lax.psum(sums, REPLICA))
        return jax.pmap(
            step,
            axis_name=REPLICA,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=0,
            devices=list(mesh.devices.flat),
        )

    def split(x: np.ndarray) -> np.ndarray:
        return x.reshape(jax.local_device_count(), -1, *x.shape[1:])

    def split_shape(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = mesh.size, batch_rows // mesh.size, *x.shape[1:]
        return jax.ShapeDtypeStruct(shape, x.dtype)

    def seen_over(sharding: NamedSharding) -> Callable[[Any], Any]:
        """The same replicas, seen as an array over other devices: the process's own, or all."""

        def see(x: jax.Array) -> jax.Array:
            shards = [shard.data for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, sharding, shards)

        return lambda state: jax.tree.map(see, state)

    # To pmap, an array is of this process alone.
    own = NamedSharding(Mesh(np.array(jax.local_devices()), (REPLICA,)), PartitionSpec())
    return Devices(
        mesh,
        compile_step,
        shardings=lambda state: jax.tree.map(lambda x: replicated, state),
        put_batch=lambda batch: jax.tree.map(split, batch),
        batch_shapes=lambda batch: jax.tree.map(split_shape, batch),
        to_step=seen_over(own),
        from_step=seen_over(replicated),
        rows=range(first, first + share),
        description="",
    )
