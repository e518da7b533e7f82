"""Many devices against one; this file is also the program that sees several (fake) devices."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import transformer_jax as tj
from transformer_jax.errors import UserError
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel import layout
from transformer_jax.parallel.devices import all_devices, choose_devices, one_device
from transformer_jax.training.step import create_state, make_train_step

V, ROWS, STEPS, EARLY = 24, 8, 20, 5  # all that is cut divides by 8 devices
CONFIG = tj.Config(
    model=tj.ModelConfig(
        num_layers=1, d_model=16, d_ff=24, num_heads=8, dropout_rate=0.3, attention_dropout_rate=0.2
    ),
    optimizer=tj.OptimizerConfig(warmup_steps=200, clip_norm=1.0),
)
MODEL = Transformer(CONFIG.model, V)


def alone(number):
    """{name: options of parallel} of each strategy by itself."""
    mesh = {"strategy": "mesh"}
    return {"pmap": {}, "data": mesh, "fsdp": {"fsdp": number}, "tensor": {"tensor": number}}


# By the number of devices. "accumulate" makes a step of two.
RUNS = {
    1: {"single": {}, "accumulate": {}},
    2: alone(2) | {"pmap, accumulate": {}},
    4: alone(4)
    | {"data, fsdp, accumulate": {"fsdp": 2}, "fsdp, tensor": {"data": 1, "fsdp": -1, "tensor": 2}},
    8: alone(8) | {"data, fsdp, tensor": {"fsdp": 2, "tensor": 2}},
}
# Every strategy, and a mix of each two; the others are slow.
FAST = {
    1: ["single", "accumulate"],
    2: list(RUNS[2]),
    4: ["fsdp, tensor"],
    8: ["pmap", "data, fsdp, tensor"],
}


def tier_of(number, name):
    return "fast" if name in FAST[number] else "slow"


CASES = [
    pytest.param(number, name, marks=[] if name in FAST[number] else pytest.mark.slow)
    for number, of_number in RUNS.items()
    for name in of_number
    if name != "single"
]


def make_batch(seed):
    """Rows of 1 to 8 target tokens, so that two devices get 10 and 26 of them."""
    rng = np.random.default_rng(seed)
    source, labels = rng.integers(4, V, (ROWS, 7)), rng.integers(4, V, (ROWS, 8))
    source[:, 3:] *= rng.integers(0, 2, (ROWS, 1))
    labels *= np.arange(8) < np.arange(1, ROWS + 1)[:, None]
    decoder_input = np.where(labels == 0, 0, np.roll(labels, 1, axis=1))
    decoder_input[:, 0] = 2
    batch = {"source_tokens": source, "labels": labels, "decoder_input": decoder_input}
    for side, ids in (("source", source), ("target", labels)):
        batch[f"{side}_segments"] = ids != 0
        batch[f"{side}_positions"] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    batch["row"] = np.arange(ROWS)
    return {name: array.astype(np.int32) for name, array in batch.items()}


def placed(config, options, rows):
    """`config` with options of parallel, and so many rows in a batch."""
    parallel, data = tj.ParallelConfig(**options), tj.DataConfig(batch_rows=rows)
    return dataclasses.replace(config, parallel=parallel, data=data)


def run(options, accumulate):
    """What a training run does: the losses, and the parameters after some steps."""
    config = dataclasses.replace(CONFIG, train=tj.TrainConfig(accumulate=accumulate))
    devices = choose_devices(placed(config, options, ROWS))
    traces = []

    def make_step(reduce):
        step = make_train_step(config, MODEL, reduce)
        return lambda state, batch: traces.append(1) or step(state, batch)

    step = devices.compile_step(make_step)
    state = devices.create_state(lambda: create_state(config, MODEL))
    state, losses, tokens, early = devices.to_step(state), [], [], []
    for number in range(1, STEPS + 1):
        batch = {name: x[devices.rows] for name, x in make_batch(number).items()}
        state, metrics = step(state, devices.put_batch(batch))
        losses.append(float(metrics["loss"]))
        tokens.append(float(metrics["target_tokens"]))
        if number == EARLY:
            params = devices.data_parallel.replicate(devices.from_step(state.params))
            early = np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)]).tolist()
    held = [x.addressable_shards[0].data.size for x in jax.tree.leaves(state.params)]
    return {
        "losses": losses,
        "tokens": tokens,
        "params": early,
        "held": sum(held),
        "traces": len(traces),
        "description": devices.description,
    }


def error_of(options, rows, accumulate=1):
    config = dataclasses.replace(CONFIG, train=tj.TrainConfig(accumulate=accumulate))
    try:
        choose_devices(placed(config, options, rows))
    except UserError as e:
        return str(e)


@functools.cache
def results(number, tier):
    """{name: what `run` returns}, from a process with so many devices."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    flags = f"--xla_force_host_platform_device_count={number}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    command = [sys.executable, os.path.abspath(__file__), str(number), tier]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def result(number, name):
    return results(number, tier_of(number, name))[name]


@pytest.mark.parametrize(("number", "name"), CASES)
def test_any_devices_learn_what_one_does(number, name):
    """With dropout, and with unequal padding.

    Rounding grows afterwards: slowly in this model (1.2e-6 after 400 steps of another this small),
    and in one that learns fast past 1e-5 within 7 steps (docs/reliability.md).
    """
    one, many = result(1, "single"), result(number, name)
    assert len(one["losses"]) == STEPS and many["tokens"] == [36] * STEPS
    np.testing.assert_allclose(many["losses"], one["losses"], atol=1e-5)
    np.testing.assert_allclose(many["params"], one["params"], atol=1e-5)
    assert many["traces"] == 1


@pytest.mark.parametrize(
    ("number", "name", "description"),
    [
        (1, "single", "1 cpu device, jit"),
        (2, "pmap", "2 cpu devices, pmap"),
        (2, "data", "2 cpu devices, jit over a mesh (data 2, fsdp 1, tensor 1)"),
        (4, "fsdp, tensor", "4 cpu devices, jit over a mesh (data 1, fsdp 2, tensor 2)"),
        (8, "data, fsdp, tensor", "8 cpu devices, jit over a mesh (data 2, fsdp 2, tensor 2)"),
    ],
)
def test_devices_are_what_was_asked_for(number, name, description):
    assert result(number, name)["description"] == description


@pytest.mark.slow
def test_a_mesh_shares_out_the_parameters():
    """What one device holds, of all: replicas hold everything; norms and b2 are never cut."""
    whole = result(1, "single")["held"]
    assert result(2, "pmap")["held"] == result(2, "data")["held"] == whole
    small = 10 * 16 + 2 * 16  # five norms' scale and bias, and b2 of both feed-forward networks
    b1 = 2 * 24  # cut by tensor alone
    kernels = whole - small - b1
    assert result(2, "fsdp")["held"] == kernels / 2 + b1 + small
    assert result(2, "tensor")["held"] == kernels / 2 + b1 / 2 + small
    assert result(8, "fsdp")["held"] == kernels / 8 + b1 + small
    assert result(8, "tensor")["held"] == kernels / 8 + b1 / 8 + small
    assert result(8, "data, fsdp, tensor")["held"] == kernels / 4 + b1 / 2 + small


def test_rows_and_a_mesh_have_to_fit_the_devices():
    errors = results(2, "fast")["errors"]
    sizes = "parallel.fsdp={}, parallel.tensor=1 must multiply to 2,"
    for error, parts in zip(
        errors,
        [
            ["data.batch_rows=7", "2 devices"],
            ["data.batch_rows=6", "2 devices times train.accumulate=2"],
            [sizes.format(3), "the number of devices"],
            ["parallel.data=1, " + sizes.format(1)],
            ["at most one of them can be -1"],
        ],
        strict=True,
    ):
        assert all(part in error for part in parts), error


@pytest.mark.fast
def test_the_rest_of_the_devices_and_what_does_not_divide():
    sizes = layout.sizes(tj.ParallelConfig(fsdp=2, tensor=3), 24)
    assert sizes == {"data": 4, "fsdp": 2, "tensor": 3}
    sizes = layout.sizes(tj.ParallelConfig(data=2, fsdp=-1), 24)
    assert sizes == {"data": 2, "fsdp": 12, "tensor": 1}
    sizes = {"data": 2, "fsdp": 4, "tensor": 16}
    assert layout.parameter_axes("embedding", (37_000, 512), sizes) == (None, "fsdp")
    assert layout.parameter_axes("w1", (512, 2048), sizes) == ("fsdp", "tensor")


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("tied", ["all", "none"])
def test_every_parameter_has_a_rule(norm, tied):
    """And none is forgotten: those that are not cut are small."""
    options = {"positions": "learned", "attention_bias": True, "logits_bias": True}
    model = dataclasses.replace(CONFIG.model, norm=norm, tied_embeddings=tied, **options)
    config = dataclasses.replace(CONFIG, model=model)
    create = lambda: create_state(config, Transformer(model, V)).params  # noqa: E731
    sizes = {"data": 1, "fsdp": 2, "tensor": 2}
    for path, x in jax.tree_util.tree_leaves_with_path(jax.eval_shape(create)):
        axes = layout.parameter_axes(path[-1].key, x.shape, sizes)
        assert any(axes) or x.size == CONFIG.model.d_model, path
    with pytest.raises(ValueError, match="no rule divides the parameter w3"):
        layout.parameter_axes("w3", (3, 5), sizes)
    with pytest.raises(ValueError, match="no rule"):
        layout.parameter_axes("w1", (3,), sizes)


@pytest.mark.parametrize(("attention", "device"), [("cudnn", "an NVIDIA GPU"), ("splash", "a TPU")])
def test_a_device_without_the_attention_kernel_is_refused(attention, device):
    config = tj.Config(model=dataclasses.replace(CONFIG.model, attention=attention))
    message = f"model.attention='{attention}' needs {device}, and this is a CPU"
    with pytest.raises(UserError, match=message):
        choose_devices(config)


@pytest.mark.fast
def test_strategy_on_this_machine():
    """One device: plain jit, unless replicas are asked for."""
    if jax.local_device_count() > 1:
        pytest.skip("several devices")
    for strategy, end in (("auto", "jit"), ("pmap", "pmap")):
        devices = choose_devices(placed(CONFIG, {"strategy": strategy}, 7))
        assert devices.description.endswith(end)
    rows = all_devices()
    assert rows.round_up(7) == 7
    np.testing.assert_array_equal(rows.put(np.arange(7)), np.arange(7))


@pytest.mark.fast
def test_two_at_a_time_on_a_cpu_and_results_in_order():
    meeting = threading.Barrier(2)

    def met(number):
        meeting.wait(timeout=30)  # passed by two at a time, or not at all
        return number

    one = one_device()
    assert [*one.side_by_side(met, range(6))] == [*range(6)]
    alone = threading.get_ident()
    several = dataclasses.replace(one, mesh=SimpleNamespace(size=2))
    for devices, count in ((one, 1), (several, 5)):
        threads = devices.side_by_side(lambda _: threading.get_ident(), range(count))
        assert {*threads} == {alone}, "one order of programs, and nothing to share"


@pytest.mark.fast
def test_what_is_not_wanted_any_more_is_not_begun():
    begun = []
    found = one_device().side_by_side(lambda n: begun.append(n) or n, range(10))
    assert next(found) == 0
    time.sleep(0.1)  # a consumer that takes its time
    assert begun == [0, 1]
    assert next(found) == 1
    found.close()
    assert len(begun) <= 3


@pytest.mark.fast
def test_an_error_and_an_interrupt_wait_for_nobody():
    def item(number):
        if number == 0:
            raise UserError("zero")
        never.wait(timeout=60)

    never, started = threading.Event(), time.monotonic()
    with pytest.raises(UserError, match="zero"):
        list(one_device().side_by_side(item, range(3)))
    assert time.monotonic() - started < 30
    never.set()


if __name__ == "__main__":
    number, tier = int(sys.argv[1]), sys.argv[2]
    names = [name for name in RUNS[number] if tier_of(number, name) == tier]
    found = {name: run(RUNS[number][name], 1 + ("accumulate" in name)) for name in names}
    wrong = [
        *(({}, ROWS - 1), ({}, 6, 2), ({"fsdp": 3}, ROWS)),
        *(({"strategy": "mesh", "data": 1}, ROWS), ({"fsdp": -1}, ROWS)),
    ]
    print(json.dumps(found | {"errors": [error_of(*arguments) for arguments in wrong]}))
