"""A record of what a model computes, as JSON: the same names, arrays as base64."""

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

# What an array of each kind is written as, in little-endian order.
_KINDS = {"f": "float32", "i": "int32", "b": "bool"}


def to_json(record: Any, *, floats: str = "float32") -> Any:
    """A dataclass of `inference.record`, or a part of one, as what `json.dumps` takes.

    >>> to_json(np.arange(2, dtype=np.int32))
    {'shape': [2], 'dtype': 'int32', 'data': 'AAAAAAEAAAA='}

    Args:
      record: the whole or a part: a layer, an array.
      floats: dtype that arrays of floats are written in, "float32" or "float16".

    Returns:
      A dict with the names of the fields; an array is {"shape": [...], "dtype": "float32",
      "data": base64 of its bytes, little-endian, rows first}; a bool has one byte.
    """
    if isinstance(record, np.ndarray):
        return _array(record, floats)
    if dataclasses.is_dataclass(record):
        record = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {name: to_json(value, floats=floats) for name, value in record.items()}
    if isinstance(record, tuple | list):
        return [to_json(value, floats=floats) for value in record]
    return record


def _array(array: np.ndarray, floats: str) -> dict[str, Any]:
    dtype = floats if array.dtype.kind == "f" else _KINDS[array.dtype.kind]
    ordered = np.ascontiguousarray(array, np.dtype(dtype).newbyteorder("<"))
    data = base64.b64encode(ordered.tobytes()).decode("ascii")
    return {"shape": list(array.shape), "dtype": dtype, "data": data}
