"""The benchmark for accelerators runs on a CPU, at a toy size."""

import json
import os
import subprocess
import sys

from launching import ROOT


def test_gpu_at_toy_size():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--toy"]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    results = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(r["model"][-4:], r["rows"]) for r in results] == [
        *(("base", 2), ("base", 4)),
        *(("_big", 2), ("_big", 4)),
    ]
    for r in results:
        # 2 sides of 256 positions a row, 95 % of them real.
        speed = r["rows"] * 2 * 3 * int(0.95 * 256 / 3) / r["seconds_per_step"]
        assert abs(r["tokens_per_second"] / speed - 1) < 1e-6
        assert r["mfu"] > 0
