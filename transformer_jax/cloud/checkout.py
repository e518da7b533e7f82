"""The checkout as another machine gets it: which files it has, and how it is installed."""

import itertools
import os
import subprocess
from collections.abc import Collection
from pathlib import Path

from transformer_jax.config import texts
from transformer_jax.config.experiment_files import experiment_file
from transformer_jax.config.options import DataConfig
from transformer_jax.errors import UserError

# For the checkout on a bare machine. uv, because the Python of Cloud TPU's images may be too old
# (the pip of a newer system installs uv only with that variable); gcsfs, because the workdir is in
# a bucket.
_INSTALL = (
    "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv",
    "python3 -m uv venv --quiet --python=3.12 .venv",
    "python3 -m uv pip install --quiet --python=.venv/bin/python -e . 'jax[{platform}]' gcsfs",
)


def install_commands(platform: str) -> list[str]:
    """Shell lines that create .venv in the checkout, for jax's platform "tpu" or "cuda13"."""
    return [line.format(platform=platform) for line in _INSTALL]


def files(folder: Path) -> set[str]:
    """What git would commit after `git add --all`: tracked files as they are now, and new ones.

    Raises:
      UserError: if `folder` is not a git repository.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"{folder} is not a git checkout, which a machine elsewhere needs a copy of: "
            "clone the project, and run its launch.py"
        ) from None
    names = os.fsdecode(done.stdout).split("\0")
    return {name for name in names if name and (folder / name).is_file()}


def relative(experiment: Path, folder: Path, known: Collection[str]) -> str:
    """The experiment file, "FILE.py:arg", by its path in the checkout, whose files are `known`.

    Raises:
      UserError: if the file is not in the checkout.
    """
    name, colon, argument = str(experiment).partition(":")
    found = os.path.relpath(os.path.abspath(experiment_file(name)), folder.resolve())
    if found not in known:
        raise UserError(
            f"--config={name} is not in the checkout, or git ignores it, so it would not be "
            f"copied to the machine: move it to {folder}/experiments"
        )
    return f"{found}{colon}{argument}"


def check_data(data: DataConfig, known: Collection[str]) -> None:
    """Raises UserError if the experiment reads a file that is none of the checkout's `known`."""
    if data.corpus != "files":
        return
    options = [data.train, data.valid, data.test]
    for name in itertools.chain.from_iterable(map(texts.paths, options)):
        file = os.path.normpath(os.path.join(data.path, name))
        if name and "://" not in os.path.join(data.path, name) and file not in known:
            raise UserError(
                f"{file} is not in the checkout, so it would not be copied to the machine: "
                "copy the text to a bucket, and give --config.data.path=gs://…"
            )
