"""The benchmarks run at a toy size: that for accelerators on a CPU, too."""

import json
import os
import re
import subprocess
import sys

import pytest
from launching import ROOT


@pytest.mark.slow
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


@pytest.mark.slow
def test_choice_at_toy_size(workdir):
    script = str(ROOT / "benchmarks" / "choice.py")
    command = [sys.executable, script, f"--workdir={workdir}", "--sentences=3", "--candidates=2"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(maxsplit=7) for line in done.stdout.splitlines()[2:]]
    assert [name.strip() for name, *_ in rows] == [
        "greedy", "beam 4", "beam 2", "beam 2, mbr chrf", "beam 2, mbr bleu",
        "sample 2, mbr chrf", "sample 2, mbr bleu",
    ]  # fmt: skip
    assert all(float(rate) > 0 for *_, rate in rows)


def test_decoding_at_toy_size(trained):
    """A row for the workdir and one for the untrained model."""
    for peer in ("ctranslate2", "safetensors", "torch", "transformers"):
        pytest.importorskip(peer, reason="a peer; `make parity` installs it")
    sizes = ["--base=toy", "--batches=2", "--beams=1", "--sentences=3", "--rounds=2"]
    script = [str(ROOT / "benchmarks" / "decode.py"), f"--workdir={trained[0]}", *sizes]
    done = subprocess.run([sys.executable, *script], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    assert [len(row) for row in rows] == [len(head)] * 2
    assert [row[1:3] for row in rows] == [["2", "1"]] * 2
    for row in rows:
        assert float(row[3]) > 0
        assert all(re.match(r"\*\*\d+\.\d\d×\*\* \(", cell) for cell in row[4:7])
        assert re.match(r"[0-3] / [0-3] / [0-3] of 3$", row[-1])
