"""How tests run the launcher, and what they train with it."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import fork_server
import pytest

import transformer_jax as tj
from transformer_jax import storage
from transformer_jax.config.files import load_config
from transformer_jax.config.options import flatten
from transformer_jax.errors import UserError
from transformer_jax.modes import command_line
from transformer_jax.modes import evaluate as modes_evaluate

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
    "decode.batch_size": 4,  # few shapes, each of which is traced
}
FLAGS = [f"--config.{name}={value}" for name, value in TINY.items()]


def tiny_config(options=None):
    """The configuration of FLAGS, with other options by dotted name."""
    return tj.load_experiment(ROOT / "experiments" / "quickstart.py", TINY | (options or {}))


def config_of(workdir):
    return load_config(storage.path(f"{workdir}/config.json"))


def json_lines(path):
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def launch(*arguments, text=None, real=False, variables=()):
    """Runs launch.py, in a forked process; `real`: as a user does, in one of its own.

    `variables`: see environment_with.
    """
    environment = environment_with(variables)
    launcher, text = str(ROOT / "launch.py"), text or ""
    if not real:
        return fork_server.run(launcher, *arguments, environment=environment, cwd=ROOT, text=text)
    return subprocess.run(
        [sys.executable, launcher, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        input=text,
        encoding="utf-8",
        capture_output=True,
        timeout=300,
    )


def environment_with(variables=()):
    """The tests' environment with other `variables`, and without those that are None."""
    given = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONIOENCODING": "utf-8"} | dict(variables)
    return {name: value for name, value in given.items() if value is not None}


def own_cache(name):
    """Variables for processes that get killed, perhaps while they write a compiled program.

    They have a user's cache, in a folder of that name, from which each start removes torn entries.
    """
    shared = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not shared:
        return {}
    return {"JAX_COMPILATION_CACHE_DIR": None, "XDG_CACHE_HOME": f"{shared}/of_killed/{name}"}


def fill(folder):
    """Leaves no room on the file system of `folder`; returns the file to remove for some."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096) == 4096:
            pass
    return filler


def refusal(*arguments, text=None, real=False):
    """The one line on standard error of a launch that fails."""
    done = launch(*arguments, text=text, real=real)
    assert done.returncode != 0
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.stderr


def refused(call, *arguments, **options):
    """The one line of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def in_process(mode, workdir, config=None, **given):
    """Runs a mode in this process, with the options in which `config` differs from the workdir's.

    What the launcher would report in one line is raised.
    """
    line = [f"--mode={mode}", f"--workdir={workdir}"]
    if config is not None:
        saved = flatten(config_of(workdir))
        changed = {name: now for name, now in flatten(config).items() if saved[name] != now}
        line += [f"--config.{name}={now}" for name, now in changed.items()]
    for name, value in given.items():
        if value:
            text = ",".join(map(str, value)) if isinstance(value, list) else value
            line.append(f"--{name}={text}")
    return command_line.run(["launch.py", *line], ROOT / "experiments" / "quickstart.py")


def evaluate(config, workdir, *, split, weights, ensemble=()):
    """--mode=evaluate, of a configuration; returns the scores."""
    model = tj.load(workdir, config=config, weights=weights, ensemble=ensemble)
    return modes_evaluate.evaluate(model, workdir, split=split, weights=weights, ensemble=ensemble)


def translate(config, workdir, input_file, output_file, **given):
    """--mode=translate, of a configuration."""
    in_process("translate", workdir, config, input=input_file, output=output_file, **given)
