"""How a batch and the parameters are divided among devices: arithmetic, which needs no device.

This file imports no jax, so that the launcher can check a layout before it pays for a machine.
"""

import math

from transformer_jax.config.options import Config, ParallelConfig
from transformer_jax.errors import UserError

DATA, FSDP, TENSOR, REPLICA = "data", "fsdp", "tensor", "replica"
# The axis of the mesh that divides each dimension of a parameter, by the last name of its path.
# "tensor" divides heads, the inner width of the feed-forward network and the vocabulary, so that
# only activations of width D are exchanged (Shoeybi et al. 2019); "fsdp" divides D (Rajbhandari et
# al. 2020). Small parameters are replicated.
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
# The platforms on which the fused implementations of attention run, and their names for a person.
_ATTENTION_PLATFORMS = {"cudnn": ("gpu", "an NVIDIA GPU"), "splash": ("tpu", "a TPU")}


def strategy_of(parallel: ParallelConfig, devices: int) -> str:
    """Resolves `parallel.strategy` for a number of devices: "single", "pmap" or "mesh"."""
    if parallel.strategy != "auto":
        return parallel.strategy
    if (parallel.data, parallel.fsdp, parallel.tensor) != (-1, 1, 1):
        return "mesh"
    return "pmap" if devices > 1 else "single"


def sizes(parallel: ParallelConfig, devices: int) -> dict[str, int]:
    """The axes of the mesh and their sizes: {"replica": …}, or {"data": …, "fsdp": …, "tensor": …}.

    Raises:
      UserError: if the sizes do not multiply to the number of devices.
    """
    strategy = strategy_of(parallel, devices)
    if strategy != "mesh":
        return {REPLICA: devices if strategy == "pmap" else 1}
    given = {name: getattr(parallel, name) for name in (DATA, FSDP, TENSOR)}
    known = math.prod(size for size in given.values() if size != -1)
    options = ", ".join(f"parallel.{name}={size}" for name, size in given.items())
    if list(given.values()).count(-1) > 1:
        raise UserError(f"{options}: at most one of them can be -1, the remaining devices")
    if devices % known or (-1 not in given.values() and known != devices):
        raise UserError(f"{options} must multiply to {devices}, the number of devices")
    return {name: devices // known if size == -1 else size for name, size in given.items()}


def check_batch(config: Config, devices: int) -> None:
    """Checks that the mesh fits the devices, and that the rows of a batch divide evenly.

    Raises:
      UserError: if one of them does not.
    """
    axes = sizes(config.parallel, devices)
    rows, accumulate = config.data.batch_rows, config.train.accumulate
    replicas = math.prod(axes.get(name, 1) for name in (REPLICA, DATA, FSDP))
    if rows % (replicas * accumulate):
        micro = f" times train.accumulate={accumulate}" if accumulate > 1 else ""
        raise UserError(f"data.batch_rows={rows} is not divisible by {replicas} devices{micro}")


def check_attention(config: Config, platform: str, place: str = "this") -> None:
    """Checks that `model.attention` runs on a platform of jax ("cpu", "gpu" or "tpu").

    Raises:
      UserError: if it does not; the message calls the machine `place`.
    """
    attention = config.model.attention
    needed, name = _ATTENTION_PLATFORMS.get(attention, (platform, ""))
    if needed != platform:
        raise UserError(
            f"model.attention={attention!r} needs {name}, and {place} is a {platform.upper()}: "
            "give --config.model.attention=xla"
        )


def parameter_axes(
    name: str, shape: tuple[int, ...], sizes: dict[str, int]
) -> tuple[str | None, ...]:
    """The axis of the mesh that divides each dimension of a parameter; None = not divided.

    A dimension that is not a multiple of its axis stays whole:

    >>> parameter_axes("embedding", (37_000, 512), {"data": 1, "fsdp": 4, "tensor": 16})
    (None, 'fsdp')

    Args:
      name: the last name of the parameter's path.
      shape: its shape.
      sizes: the sizes of the mesh.

    Raises:
      ValueError: if there is no rule for that name, or only for another rank.
    """
    if name not in _RULES or len(_RULES[name]) != len(shape):
        raise ValueError(f"no rule divides the parameter {name} of shape {shape}: add one here")
    rule = zip(_RULES[name], shape, strict=True)
    return tuple(axis if axis and n % sizes[axis] == 0 else None for axis, n in rule)
