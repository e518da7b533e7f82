"""Freed memory is kept for the next step, and a long training needs no more than a short one."""

import json
import os
import subprocess
import sys

import pytest
from launching import ROOT

VARIABLES = ("MALLOC_", "GLIBC_TUNABLES")

FREED = """
import resource, sys, threading
from transformer_jax.parallel import allocator
kept = allocator.keep_freed_memory()
sizes, faults = [int(size) for size in sys.argv[1:]], []
def allocate():
    arrays = [b"x" * size for size in sizes]
    while arrays:
        del arrays[len(arrays) // 2]
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=allocate)  # as XLA's
    thread.start()
    thread.join()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print([kept, faults])
"""

TRAINED = """
import resource, sys
from transformer_jax.parallel import allocator
assert allocator.keep_freed_memory()
import jax, numpy as np
import transformer_jax as tj
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.step import create_state, make_train_step

config = tj.Config(model=tj.ModelConfig(num_layers=1, d_model=34, d_ff=71, num_heads=2))
model = Transformer(config.model, 1009)
step = jax.jit(make_train_step(config, model), donate_argnums=0)
state, rng = create_state(config, model), np.random.default_rng(0)
names = ["source_tokens", "decoder_input", "labels"]
names += [f"{side}_{kind}" for side in ("source", "target") for kind in ("segments", "positions")]
resident = []
for number in range(1000):
    ids = rng.integers(4, 1009, (67, 29)).astype(np.int32)
    batch = {name: np.array(ids) if name in names[:3] else np.ones_like(ids) for name in names}
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    state, metrics = step(state, batch | {"row": np.arange(67, dtype=np.int32)})
    assert np.isfinite(float(metrics["loss"]))
    if number % 50 == 49:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        resident.append((int(open("/proc/self/statm").read().split()[1]) * 4096, faults))
print(resident)
"""


ONE, SEVERAL = (120_000_000,), (51_000_007, 300_007, 37_000_001, 5_000_011, 13_000_027)  # bytes


def output(program, *arguments, **variables):
    kept = {n: v for n, v in os.environ.items() if not n.startswith(VARIABLES)}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=kept | {"JAX_PLATFORMS": "cpu"} | variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.lower().replace("(", "[").replace(")", "]"))


@pytest.mark.parametrize("sizes", [ONE, SEVERAL], ids=["one", "several"])
def test_arrays_get_the_memory_of_those_before(sizes):
    kept, faults = output(FREED, *sizes)
    assert kept
    assert faults[0] > 20_000  # of 4 kB, the first time
    assert max(faults[1:]) < 100


@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_ARENA_MAX": "0"},
        {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=3"},
        {"JAX_PLATFORMS": "cuda,cpu"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_glibc_is_left_alone_by_its_own_variables_and_beside_accelerators(variables):
    kept, faults = output(FREED, *ONE, **variables)
    assert not kept
    assert min(faults) > 20_000


@pytest.mark.slow
def test_a_thousand_steps_need_no_more_memory_than_a_hundred():
    resident = output(TRAINED)
    sizes = [size for size, _ in resident]
    assert max(sizes[2:]) < 1.03 * sizes[1]
    assert max(faults for _, faults in resident[2:]) < 300
