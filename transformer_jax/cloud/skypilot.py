"""A run as a SkyPilot task: `sky jobs launch` finds a machine, and replaces a reclaimed one."""

import json
import shlex
from collections.abc import Sequence

from transformer_jax.cloud import checkout, launch_line
from transformer_jax.errors import UserError


def task(
    arguments: Sequence[str],
    *,
    name: str,
    folder: str,
    accelerator: str,
    zone: str = "",
    runtime_version: str = "",
    spot: bool = False,
) -> str:
    """The YAML of the task, which `sky jobs launch` restarts on another machine if necessary.

    Args:
      arguments: of launch.py.
      name: of the task.
      folder: the checkout to copy.
      accelerator: Cloud TPU's name (v5litepod-16), or SkyPilot's name of a GPU (A100:8).
      zone: Google Cloud's; "" = wherever SkyPilot finds a machine.
      runtime_version: the software of a Cloud TPU; "" = chosen by the accelerator.
      spot: whether the machine may be reclaimed, which is cheaper.

    Raises:
      UserError: if the name or the kind of Cloud TPU is invalid.
    """
    launch_line.check_name(name)
    tpu = launch_line.tpu_kind(accelerator)
    if not tpu and runtime_version:
        raise UserError(
            f"--runtime_version is for Cloud TPUs, and --accelerator={accelerator} is not one"
        )
    resources = [f"accelerators: {_text(f'tpu-{accelerator}' if tpu else accelerator)}"]
    if tpu or zone:
        region = zone.rpartition("-")[0]
        resources += [f"infra: {_text(f'gcp/{region}/{zone}' if zone else 'gcp')}"]
    if tpu:
        version = runtime_version or launch_line.runtime_version(accelerator)
        resources += ["accelerator_args:", f"  runtime_version: {_text(version)}"]
    if spot:
        resources += ["use_spot: true"]
    setup = ["set -e", *checkout.install_commands("tpu" if tpu else "cuda13")]
    return _TASK.format(
        name=_text(name),
        folder=_text(folder),
        resources=_indented(resources),
        setup=_indented(setup),
        run=_indented([shlex.join([".venv/bin/python", "launch.py", *arguments])]),
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
