"""The launch line of a run elsewhere: its flags, name, workdir and accelerator."""

import re
from collections.abc import Mapping, Sequence

from transformer_jax.errors import UserError

RUNTIME_VERSIONS = {
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}


def without(arguments: Sequence[str], own: Mapping[str, bool]) -> list[str]:
    """`arguments` without the flags named in `own`, which maps each to whether it is boolean.

    >>> without(["--target=slurm", "--keep", "--seed=1"], {"target": False, "keep": True})
    ['--seed=1']

    Raises:
      UserError: for --name value without an equals sign, or a character that cannot be printed.
    """
    rest = []
    for argument in arguments:
        if not argument.isprintable():  # a line break would end a line of the job's file
            raise UserError(f"{argument!r} has a character that a job cannot contain")
        name, has_value, _ = argument.lstrip("-").partition("=")
        known = name if name in own else name.removeprefix("no")
        if not argument.startswith("-") or known not in own:
            rest.append(argument)
        elif not has_value and not own[known]:
            raise UserError(f"write --{name}=…, with an equals sign")
    return rest


def default_name(experiment: str) -> str:
    """The name of a VM or job for an experiment: "wmt14-base" for "WMT14_base"."""
    return re.sub(r"[^a-z0-9]+", "-", experiment.lower()).strip("-") or "run"


def check_name(name: str) -> None:
    """Raises UserError unless Google Cloud accepts `name`."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name):
        raise UserError(
            f"--name={name!r} must consist of at most 63 lower-case letters, digits and hyphens, "
            "start with a letter, and not end with a hyphen"
        )


def check_workdir(workdir: str | None, target: str) -> None:
    """Raises UserError unless `workdir` outlives the machine that writes it."""
    if not (workdir or "").startswith("gs://"):
        raise UserError(
            f"--target={target} needs --workdir=gs://BUCKET/…, not {workdir or 'none'}: the "
            "machine's own disk is deleted with it, and the run could not resume"
        )


def tpu_kind(accelerator: str) -> str:
    """The kind of a Cloud TPU, "v5litepod" for v5litepod-16; "" for another name, as A100:8."""
    match = re.fullmatch(r"(v\d\w*)-\d+", accelerator)
    return match[1] if match else ""


def runtime_version(accelerator: str) -> str:
    """The runtime version (a VM's software) that an accelerator needs: "v2-alpha-tpuv6e" for v6e-8.

    Raises:
      UserError: if the kind of accelerator is unknown; the message lists the known kinds.
    """
    kind = tpu_kind(accelerator)
    if kind not in RUNTIME_VERSIONS:
        known = ", ".join(f"{kind}-N" for kind in RUNTIME_VERSIONS)
        raise UserError(
            f"--accelerator={accelerator} is none of {known}: "
            "for another Cloud TPU give --runtime_version=… as well"
        )
    return RUNTIME_VERSIONS[kind]
