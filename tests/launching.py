"""How tests run the launcher, and what they train with it."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = {
    "data.train_size": 500,
    "data.held_out_size": 30,
    "data.vocab_size": 701,
    "data.batch_rows": 4,
    "model.num_layers": 1,
    "model.d_model": 8,
    "model.d_ff": 14,
    "model.num_heads": 2,
    "train.steps": 4,
    "train.tensorboard": False,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.evaluate_every": 4,
    "train.evaluate_sentences": 3,
    "decode.method": "greedy",
    "decode.extra_length": 2,
}
FLAGS = [f"--config.{name}={value}" for name, value in TINY.items()]


def launch(*arguments, text=None):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONIOENCODING": "utf-8",
    }
    command = [sys.executable, str(ROOT / "launch.py"), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        input=text or "",
        encoding="utf-8",
        capture_output=True,
        timeout=300,
    )


def fill(folder):
    """Leaves no room on the file system of `folder`; returns the file to remove for some."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096) == 4096:
            pass
    return filler


def refusal(*arguments, text=None):
    """The one line on standard error of a launch that fails."""
    done = launch(*arguments, text=text)
    assert done.returncode != 0
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.stderr
