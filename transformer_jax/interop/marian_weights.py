"""Marian's tensors ↔ our parameters: names, layouts, and the order of the vocabulary."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from transformer_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]

# The bias of a <bos> that copies another row: exp(-100) is negligible beside any other probability,
# and unlike -inf it survives arithmetic and a cast to float16.
BORROWED_BIAS = -100.0
FINAL_BIAS = "final_logits_bias"
SHARED, SOFTMAX = "model.shared.weight", "lm_head.weight"
SOURCE, TARGET = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
# Some files store the sinusoids, which are a function of the position alone.
POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")

_SUBLAYERS = {
    "self_attention": "self_attn.",
    "self_attention_residual/norm": "self_attn_layer_norm.",
    "cross_attention": "encoder_attn.",
    "cross_attention_residual/norm": "encoder_attn_layer_norm.",
    "feed_forward": "",
    "feed_forward_residual/norm": "final_layer_norm.",
}
_PARAMETERS = {
    **{f"{part}_kernel": f"{part[0]}_proj.weight" for part in ("query", "key", "value")},
    **{f"{part}_bias": f"{part[0]}_proj.bias" for part in ("query", "key", "value")},
    **{"output_kernel": "out_proj.weight", "output_bias": "out_proj.bias"},
    **{"w1": "fc1.weight", "b1": "fc1.bias", "w2": "fc2.weight", "b2": "fc2.bias"},
    **{"scale": "weight", "bias": "bias"},
}
_TABLES = {
    "embedding": SHARED,
    "source_embedding": SOURCE,
    "target_embedding": TARGET,
    "softmax": SOFTMAX,
}


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Marian's ids of the special pieces; `start` begins a translation."""

    pad: int
    unk: int
    eos: int
    start: int

    @property
    def borrowed(self) -> str | None:
        """The special piece that `start` is, usually "pad"; None = a piece of its own."""
        return next((n for n in ("pad", "unk", "eos") if getattr(self, n) == self.start), None)


def import_order(size: int, ids: SpecialIds) -> list[int]:
    """Marian's row for each of ours: pad, unk, bos, eos, and then the others in Marian's order.

    A `start` that is borrowed appears twice, so that we have one row more.

    >>> import_order(6, SpecialIds(pad=5, unk=1, eos=0, start=5))
    [5, 1, 5, 0, 2, 3, 4]
    """
    special = {PAD_ID: ids.pad, UNK_ID: ids.unk, BOS_ID: ids.start, EOS_ID: ids.eos}
    rest = [row for row in range(size) if row not in special.values()]
    return [special[row] for row in range(len(special))] + rest


def export_order(size: int, *, drop_bos: bool, pad: int) -> list[int]:
    """Our row for each of Marian's: eos, unk, and then the others.

    Pad gets the id `pad`, and bos, unless it is dropped, the id before that.

    >>> export_order(7, drop_bos=True, pad=5)
    [3, 1, 4, 5, 6, 0]
    >>> export_order(7, drop_bos=False, pad=6)
    [3, 1, 4, 5, 6, 2, 0]
    """
    order = [EOS_ID, UNK_ID, *range(EOS_ID + 1, size)]
    inserted = [PAD_ID] if drop_bos else [BOS_ID, PAD_ID]
    start = pad + 1 - len(inserted)
    return [*order[:start], *inserted, *order[start:]]


def borrowed_bos(params: Any) -> int | None:
    """The row that <bos> copies in every table, if it is never generated; None = it is no copy."""
    bias = params.get("logits_bias")
    if bias is None or float(bias[BOS_ID]) != BORROWED_BIAS:
        return None
    tables = [np.asarray(params[name]) for name in _TABLES if name in params]
    copies = (
        row
        for row in (PAD_ID, UNK_ID, EOS_ID)
        if all(table[row].tobytes() == table[BOS_ID].tobytes() for table in tables)
    )
    return next(copies, None)


def to_params(
    tensors: Tensors, like: Any, source: list[int], target: list[int], *, borrowed: bool
) -> Any:
    """Our parameters, float32.

    `source` and `target` are the `import_order` of each side's table, `like` has the shapes of our
    parameters, and a `borrowed` <bos> is a copy, which must not be generated.

    Raises:
      UserError: naming a tensor that is missing, has another shape, or is not finite.
    """

    def convert(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path == "logits_bias":
            bias = _checked(tensors, FINAL_BIAS, (1, len(set(target))))[0, target]
            bias[BOS_ID] = BORROWED_BIAS if borrowed else bias[BOS_ID]
            return bias
        if path in _TABLES:
            order = source if path == "source_embedding" else target
            name = _stored(tensors, path)
            return _checked(tensors, name, (len(set(order)), shape[1]))[order]
        if len(shape) == 1 or path.endswith("bias"):
            return _checked(tensors, _name(path), (math.prod(shape),)).reshape(shape)
        rows, columns = _matrix(path, shape)
        matrix = _checked(tensors, _name(path), (columns, rows)).T  # torch's Linear is [out, in]
        return np.ascontiguousarray(matrix).reshape(shape)

    flat = traverse_util.flatten_dict(like, sep="/")
    flat = {path: convert(path, leaf.shape) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def to_tensors(params: Any, source: list[int], target: list[int]) -> dict[str, np.ndarray]:
    """Marian's tensors, float32, with zeros for biases that we lack; the inverse of `to_params`.

    `source` and `target` are the `export_order` of each side's table.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {FINAL_BIAS: np.zeros((1, len(target)), np.float32)}
    for path, leaf in flat.items():
        array = np.asarray(leaf, np.float32)
        if path == "logits_bias":
            tensors[FINAL_BIAS] = array[None, target]
        elif path in _TABLES:
            tensors[_TABLES[path]] = array[source if path == "source_embedding" else target]
            if path == "embedding" and "softmax" in flat:  # every name is stored
                tensors |= {name: tensors[SHARED].copy() for name in (SOURCE, TARGET)}
        elif array.ndim == 1 or path.endswith("bias"):
            tensors[_name(path)] = array.reshape(-1)
        else:
            tensors[_name(path)] = np.ascontiguousarray(array.reshape(_matrix(path, array.shape)).T)
            bias = path.removesuffix("kernel") + "bias"
            if path.endswith("_kernel") and bias not in flat:
                tensors[_name(bias)] = np.zeros(tensors[_name(path)].shape[:1], np.float32)
    return tensors


def has_one_table(tensors: Tensors) -> bool:
    """Whether source and target have the same embeddings, under whatever names."""
    tables = [tensors[name] for name in (SHARED, SOURCE, TARGET) if name in tensors]
    return all(np.array_equal(table, tables[0]) for table in tables[1:])


def unknown_tensors(tensors: Tensors, like: Any) -> Iterator[str]:
    """The names of tensors that are no parameter of ours, as another architecture would have."""
    paths = traverse_util.flatten_dict(like, sep="/")
    known = {_name(path) for path in paths if path not in _TABLES and path != "logits_bias"}
    known |= {FINAL_BIAS, SHARED, SOFTMAX, SOURCE, TARGET, *POSITIONS}
    return (name for name in tensors if name not in known)


def _stored(tensors: Tensors, path: str) -> str:
    """The name under which a file has a table: one of several, if tables are tied."""
    others = {"embedding": (TARGET, SOURCE, SOFTMAX), "softmax": ()}.get(path, (SHARED,))
    return next((n for n in (_TABLES[path], *others) if n in tensors), _TABLES[path])


def _name(path: str) -> str:
    layer, sublayer, parameter = (path.split("/", 1)[0], *path.split("/", 1)[1].rsplit("/", 1))
    side, number = layer.rsplit("_", 1)
    return f"model.{side}.layers.{number}.{_SUBLAYERS[sublayer]}{_PARAMETERS[parameter]}"


def _matrix(path: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(in, out) of a kernel, which has an axis for the heads on one of the two sides."""
    split = len(shape) - 1 if path.endswith("output_kernel") else 1
    return math.prod(shape[:split]), math.prod(shape[split:])


def _checked(tensors: Tensors, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Copies a tensor to float32, after a check of its shape and values."""
    if name not in tensors:
        raise UserError(f"the model has no tensor {name}")
    tensor = tensors[name]
    if tensor.shape != shape:
        raise UserError(f"tensor {name} has shape {tensor.shape}, but config.json gives {shape}")
    tensor = np.array(tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise UserError(f"tensor {name} has values that are not finite")
    return tensor
