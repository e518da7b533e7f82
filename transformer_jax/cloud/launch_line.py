"""The launch line of a run that happens elsewhere: which flags it gets, and what it can reach."""

import os
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformer_jax.config.options import DataConfig
from transformer_jax.errors import UserError

_DEFAULT_RUNTIME = {
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
# On a bare machine, in the checkout. uv, because the Python of Cloud TPU's images may be older than
# this project takes (a newer system's pip installs it with that variable alone); gcsfs, because the
# workdir is in a bucket.
_INSTALL = (
    "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv",
    "python3 -m uv venv --quiet --python=3.12 .venv",
    "python3 -m uv pip install --quiet --python=.venv/bin/python -e . 'jax[{platform}]' gcsfs",
)


def without(arguments: Sequence[str], own: Mapping[str, bool]) -> list[str]:
    """`arguments` without the flags named in `own`, which says of each whether it is boolean.

    >>> without(["--target=slurm", "--keep", "--seed=1"], {"target": False, "keep": True})
    ['--seed=1']

    Raises:
      UserError: for --name value without an equals sign, or a character that cannot be printed.
    """
    rest = []
    for argument in arguments:
        if not argument.isprintable():  # A line break would end a line of the job's file.
            raise UserError(f"{argument!r} has a character that a job's launch line cannot have")
        name, has_value, _ = argument.lstrip("-").partition("=")
        known = name if name in own else name.removeprefix("no")
        if not argument.startswith("-") or known not in own:
            rest.append(argument)
        elif not has_value and not own[known]:
            raise UserError(f"write --{name}=…, with an equals sign")
    return rest


def default_name(experiment: str) -> str:
    """A machine's or job's name: default_name("WMT14_base") is "wmt14-base"."""
    return re.sub(r"[^a-z0-9]+", "-", experiment.lower()).strip("-") or "run"


def check_name(name: str) -> None:
    """Raises UserError unless `name` is one that Google Cloud takes."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise UserError(
            f"--name={name!r} must be small letters, digits and hyphens, 63 at most, "
            "and begin with a letter"
        )


def check_workdir(workdir: str | None, place: str) -> None:
    """Raises UserError unless `workdir` outlives the machine that writes to it."""
    if not (workdir or "").startswith("gs://"):
        raise UserError(
            f"--target={place} needs --workdir=gs://BUCKET/…, not {workdir or 'none'}: the "
            "machine's own disk goes with it, and the run could not go on from there"
        )


def is_tpu(accelerator: str) -> bool:
    """Whether it is written as Cloud TPU's are: v5litepod-16, and not A100:8."""
    return re.fullmatch(r"v\d\w*-\d+", accelerator) is not None


def is_known(accelerator: str) -> bool:
    """Whether it is a Cloud TPU of a kind whose machine software is known."""
    return is_tpu(accelerator) and accelerator.rpartition("-")[0] in _DEFAULT_RUNTIME


def runtime_version(accelerator: str) -> str:
    """The machine software that an accelerator needs: v6e-8 → "v2-alpha-tpuv6e".

    Raises:
      UserError: if the kind is unknown; it names the known ones.
    """
    if not is_known(accelerator):
        known = ", ".join(f"{kind}-N" for kind in _DEFAULT_RUNTIME)
        raise UserError(
            f"--accelerator={accelerator} is none of {known}: "
            "for another Cloud TPU give --runtime_version=…, too"
        )
    return _DEFAULT_RUNTIME[accelerator.rpartition("-")[0]]


def install_commands(platform: str) -> list[str]:
    """Shell lines that make .venv in the checkout; `platform` is jax's: "tpu" or "cuda13"."""
    return [line.format(platform=platform) for line in _INSTALL]


def checkout_files(checkout: Path) -> list[str]:
    """What git would commit after `git add --all`: tracked files as they are now, and new ones.

    Raises:
      UserError: if `checkout` is not a git repository.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError(f"{checkout} is no git checkout, so what to copy is not known") from None
    names = sorted(set(os.fsdecode(done.stdout).split("\0")))
    return [name for name in names if name and (checkout / name).is_file()]


def from_checkout(arguments: list[str], checkout: Path) -> list[str]:
    """`arguments` with --config=FILE.py as it is called from `checkout`.

    Raises:
      UserError: if the file is not among those of the checkout.
    """
    rest = []
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        if name == "config":
            file, colon, parameter = value.partition(":")
            relative = os.path.relpath(os.path.abspath(file), checkout.resolve())
            if relative not in checkout_files(checkout):
                raise UserError(
                    f"--config={file} is not in the checkout, or git ignores it: "
                    "it would not be copied to where the run is"
                )
            argument = f"--config={relative}{colon}{parameter}"
        rest.append(argument)
    return rest


def check_data(data: DataConfig, checkout: Path) -> None:
    """Raises UserError if the experiment reads a file that would not be where the run is."""
    if data.corpus != "files":
        return
    known = checkout_files(checkout)
    for name in ",".join([data.train, data.valid, data.test]).split(","):
        file = os.path.normpath(os.path.join(data.path, name))
        if name and "://" not in os.path.join(data.path, name) and file not in known:
            raise UserError(f"{file} is not in the checkout: it would not be where the run is")


def pack_checkout(checkout: Path, archive: Path) -> int:
    """Writes `checkout_files` into a tar.gz; returns how many there are."""
    names = checkout_files(checkout)
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            tar.add(checkout / name, arcname=name, recursive=False)
    return len(names)
