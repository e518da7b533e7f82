"""What the README promises of the quickstart. Ten minutes: `make test-slow`."""

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import transformer_jax as tj

ROOT = Path(__file__).parents[2]


def quickstart(workdir):
    """Runs `python launch.py` as a user does; its standard output and its scores."""
    command = [sys.executable, str(ROOT / "launch.py"), f"--workdir={workdir}"]
    # The tests' own setting would compile a slow program.
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    folder = workdir / "evaluation" / "test"
    return done.stdout, json.loads((folder / "scores.json").read_text()), folder


@pytest.mark.slow
def test_quickstart_keeps_its_promises_twice(tmp_path, monkeypatch):
    output, scores, folder = quickstart(tmp_path / "runs/quickstart")
    assert scores["exact_match"] >= 0.98
    assert "我有一只猫 → I have a cat\n" in output
    assert "python launch.py --mode=translate" in output
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(tj) == (0, 3)
    _, again, folder_again = quickstart(tmp_path / "second")
    assert again == scores
    name = "translations.tsv"
    assert (folder_again / name).read_bytes() == (folder / name).read_bytes()
