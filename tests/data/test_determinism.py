"""Data is the same in every process, whatever its hash seed: nothing depends on a set's order."""

import os
import subprocess
import sys

import pytest
from launching import ROOT

PROGRAM = """
import numpy as np
from transformer_jax.data.packing import plan_packing
from transformer_jax.data.small_world import grammar
from transformer_jax.data.splitting import hold_out

print([grammar.pairs(split, size=53, seed=7) for split in grammar.SPLITS])
pairs = [(f"s{i * i % 307}", f"t{i * 7 % 401}") for i in range(211)]
print(hold_out([*pairs, *((f"u{i}", f"v{i}") for i in range(101))], 13, ["valid", "test"]))
lengths = np.random.default_rng(5).integers(1, 41, (2, 499))
plan = plan_packing(*lengths, source_row_length=31, target_row_length=37)
print([row.tolist() for row in plan.epoch(2, 3)])
"""


@pytest.mark.fast
def test_another_process_and_hash_seed_give_the_same_data(capsys):
    exec(PROGRAM, {})
    here = capsys.readouterr().out
    assert all(part in here for part in ("我", "'test'", "[["))
    for hash_seed in ("1", "4242"):
        variables = {
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": str(ROOT),
            "PYTHONIOENCODING": "utf-8",
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | variables,
            capture_output=True,
            check=True,
            encoding="utf-8",
        )
        assert done.stdout == here
