"""Two devices against one; this file is also the program that sees two (fake) devices."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import parallel, training
from transformer_jax.config import Config, ModelConfig, OptimizerConfig, ParallelConfig, TrainConfig
from transformer_jax.model import Transformer

V, ROWS, STEPS, EARLY = 17, 8, 20, 5
CONFIG = Config(
    model=ModelConfig(
        num_layers=1, d_model=6, d_ff=11, num_heads=2, dropout_rate=0.3, attention_dropout_rate=0.2
    ),
    optimizer=OptimizerConfig(warmup_steps=200, clip_norm=1.0),
)
MODEL = Transformer(CONFIG.model, V)
RUNS = {"single": ("single", 1), "pmap": ("auto", 1), "pmap-accumulate": ("pmap", 2)}


def make_batch(seed):
    """Rows of 1 to 8 target tokens, so that the two devices get 10 and 26 of them."""
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


def run(state, strategy, accumulate):
    """What `experiment.train` does: the losses, and the parameters after some steps."""
    config = dataclasses.replace(CONFIG, train=TrainConfig(accumulate=accumulate))
    devices = parallel.choose(ParallelConfig(strategy), batch_rows=ROWS, accumulate=accumulate)
    step = devices.compile(lambda *reduce: training.make_train_step(config, MODEL, *reduce))
    state = devices.put_state(jax.tree.map(jnp.copy, state))  # the step consumes its state
    losses, tokens, early = [], [], []
    for number in range(1, STEPS + 1):
        state, metrics = step(state, devices.put_batch(make_batch(number)))
        metrics = devices.one_copy(metrics)
        losses.append(float(metrics["loss"]))
        tokens.append(float(metrics["target_tokens"]))
        if number == EARLY:
            leaves = jax.tree.leaves(devices.one_copy(state).params)
            early = np.concatenate([np.ravel(x) for x in leaves]).tolist()
    description = devices.description
    return {"losses": losses, "tokens": tokens, "params": early, "description": description}


def error_of(rows, accumulate):
    try:
        parallel.choose(ParallelConfig(), batch_rows=rows, accumulate=accumulate)
    except parallel.UserError as e:
        return str(e)


@pytest.fixture(scope="module")
def runs():
    """{name: what `run` returns}, from a process with two devices."""
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = os.path.dirname(os.path.dirname(os.path.abspath(parallel.__file__)))
    environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, os.path.abspath(__file__)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_devices_are_what_was_asked_for(runs):
    assert runs["single"]["description"].startswith("1 ")
    assert runs["pmap"]["description"].startswith("2 ")
    assert runs["pmap-accumulate"]["description"].endswith("pmap")
    assert all(runs[name]["tokens"] == [36] * STEPS for name in RUNS)


@pytest.mark.parametrize("name", ["pmap", "pmap-accumulate"])
def test_two_devices_learn_what_one_does(runs, name):
    """With dropout, and with unequal padding."""
    one, two = runs["single"], runs[name]
    assert len(one["losses"]) == STEPS
    np.testing.assert_allclose(two["losses"], one["losses"], atol=1e-5)
    np.testing.assert_allclose(two["params"], one["params"], atol=1e-5)


def test_rows_must_divide_by_the_devices(runs):
    assert "data.batch_rows=7" in runs["error"]
    assert "2 devices" in runs["error"]
    assert "data.batch_rows=6" in runs["micro_error"]
    assert "2 devices times train.accumulate=2" in runs["micro_error"]


@pytest.mark.fast
def test_strategy_on_this_machine():
    """One device: plain jit, unless replicas are asked for."""
    if jax.local_device_count() > 1:
        pytest.skip("several devices")
    assert parallel.choose(ParallelConfig("auto"), batch_rows=7).description.endswith("jit")
    devices = parallel.choose(ParallelConfig("pmap"), batch_rows=7)
    assert devices.description.endswith("pmap")
    tree = {"x": np.arange(7), "scalar": np.float32(3)}
    replicated = devices.put_state(tree)
    assert {name: x.shape for name, x in replicated.items()} == {"x": (1, 7), "scalar": (1,)}
    copy = devices.one_copy(replicated)
    np.testing.assert_array_equal(copy["x"], tree["x"])
    assert copy["scalar"] == 3


def test_several_hosts_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    with pytest.raises(parallel.UserError, match="3 hosts"):
        parallel.choose(ParallelConfig(), batch_rows=7)


if __name__ == "__main__":
    first = training.create_state(CONFIG, MODEL)
    results = {name: run(first, *arguments) for name, arguments in RUNS.items()}
    print(json.dumps(results | {"error": error_of(ROWS - 1, 1), "micro_error": error_of(6, 2)}))
