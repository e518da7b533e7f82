"""JSON of a record: the same names and the same numbers."""

import base64
import dataclasses
import json

import numpy as np
import pytest

import transformer_jax as tj
from transformer_jax.inside.serialize import to_json


@pytest.fixture(scope="module")
def record(trained):
    return tj.load(trained[0]).inside("我有一只猫", "I have a cat")


def read(written):
    """What a page makes of it: arrays from base64, lists and objects as they are."""
    if isinstance(written, list):
        return [read(value) for value in written]
    if isinstance(written, dict) and written.keys() == {"shape", "dtype", "data"}:
        data, dtype = base64.b64decode(written["data"]), np.dtype(written["dtype"])
        return np.frombuffer(data, dtype.newbyteorder("<")).reshape(written["shape"])
    if isinstance(written, dict):
        return {name: read(value) for name, value in written.items()}
    return written


def compare(ours, found, rtol=0.0):
    if dataclasses.is_dataclass(ours):
        ours = {f.name: getattr(ours, f.name) for f in dataclasses.fields(ours)}
    if isinstance(ours, dict):
        assert ours.keys() == found.keys()
        for name, value in ours.items():
            compare(value, found[name], rtol)
    elif isinstance(ours, tuple):
        assert len(ours) == len(found)
        for pair in zip(ours, found, strict=True):
            compare(*pair, rtol)
    else:
        np.testing.assert_allclose(found, ours, rtol) if isinstance(ours, np.ndarray) else None
        assert isinstance(ours, np.ndarray) or ours == found


def test_a_record_survives_being_written(record):
    compare(record, read(json.loads(json.dumps(to_json(record)))))
    half = to_json(record, floats="float16")
    weights = half["decoder"][0]["cross_attention"]["weights"]
    assert weights["dtype"] == "float16"
    expected = record.decoder[0].cross_attention.weights
    np.testing.assert_allclose(read(weights), expected, atol=1e-3)


def test_a_part_is_written_alone(record):
    layer = record.decoder[0]
    assert to_json(layer) == to_json(record)["decoder"][0]
    mask = layer.self_attention.mask
    assert read(to_json(mask)).dtype == bool
    np.testing.assert_array_equal(read(to_json(mask)), mask)
