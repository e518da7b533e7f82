"""A run as a SkyPilot task: `sky jobs launch` finds a machine, and replaces a reclaimed one."""

import dataclasses
import json
import shlex

from transformer_jax.cloud import checkout, launch_line
from transformer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SkyTask:
    """The machine that SkyPilot is to find, and the run on it."""

    name: str
    accelerator: str  # Cloud TPU's name (v5litepod-16), or SkyPilot's name of a GPU (A100:8)
    arguments: tuple[str, ...]  # of launch.py
    folder: str  # the checkout to copy
    zone: str = ""  # Google Cloud's; "" = wherever SkyPilot finds a machine
    runtime_version: str = ""  # of a Cloud TPU; "" = chosen by the accelerator
    spot: bool = False  # cheaper, but it may be reclaimed


def task(sky: SkyTask) -> str:
    """The YAML of the task, which `sky jobs launch` restarts on another machine if necessary.

    Raises:
      UserError: if the name or the kind of Cloud TPU is invalid.
    """
    launch_line.check_name(sky.name)
    tpu = launch_line.tpu_kind(sky.accelerator)
    if not tpu and sky.runtime_version:
        raise UserError(
            f"--runtime_version is for Cloud TPUs, and --accelerator={sky.accelerator} is not one"
        )
    resources = []
    if tpu or sky.zone:
        region = sky.zone.rpartition("-")[0]
        resources += [f"infra: {_text(f'gcp/{region}/{sky.zone}' if sky.zone else 'gcp')}"]
    resources += [f"accelerators: {_text(f'tpu-{sky.accelerator}' if tpu else sky.accelerator)}"]
    if tpu:
        version = sky.runtime_version or launch_line.runtime_version(sky.accelerator)
        resources += ["accelerator_args:", f"  runtime_version: {_text(version)}"]
    if sky.spot:
        resources += ["use_spot: true"]
    setup = ["set -e", *checkout.install_commands("tpu" if tpu else "cuda13")]
    return _TASK.format(
        name=_text(sky.name),
        folder=_text(sky.folder),
        resources=_indented(resources),
        setup=_indented(setup),
        run=_indented([shlex.join([".venv/bin/python", "launch.py", *sky.arguments])]),
    )


_TASK = """\
# sky jobs launch THIS_FILE. A reclaimed machine is replaced, and the run resumes from its workdir.
name: {name}
workdir: {folder}
resources:
{resources}
setup: |
{setup}
run: |
{run}
"""


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a YAML string


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
