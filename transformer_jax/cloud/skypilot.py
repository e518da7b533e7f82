"""A launch line as a SkyPilot task: `sky jobs launch` finds a machine, and another when it goes."""

import dataclasses
import json
import shlex

from transformer_jax.cloud import launch_line
from transformer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SkyTask:
    """What is asked of SkyPilot.

    Attributes:
      name: of the job.
      accelerator: Cloud TPU's (v5litepod-16), or SkyPilot's own name of a GPU (A100:8).
      arguments: of launch.py.
      zone: Google Cloud's; "" = wherever SkyPilot finds it.
      runtime_version: of a Cloud TPU; "" = by the accelerator.
      spot: cheaper, and may be taken away.
    """

    name: str
    accelerator: str
    arguments: tuple[str, ...]
    zone: str = ""
    runtime_version: str = ""
    spot: bool = False


def task(sky: SkyTask) -> str:
    """The YAML of a task that `sky jobs launch` starts again on another machine.

    Raises:
      UserError: if the name, or the kind of Cloud TPU, is not one.
    """
    launch_line.check_name(sky.name)
    tpu = launch_line.is_tpu(sky.accelerator)
    if not tpu and sky.runtime_version:
        raise UserError(f"--runtime_version is a Cloud TPU's, and {sky.accelerator} is not one")
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
    setup = ["set -e", *launch_line.install_commands("tpu" if tpu else "cuda13")]
    return _TASK.format(
        name=_text(sky.name),
        resources=_indented(resources),
        setup=_indented(setup),
        run=_indented([shlex.join([".venv/bin/python", "launch.py", *sky.arguments])]),
    )


_TASK = """\
# In the checkout: sky jobs launch THIS_FILE. A machine that is taken away is replaced, and the run
# goes on from its workdir.
name: {name}
workdir: .
resources:
{resources}
setup: |
{setup}
run: |
{run}
"""


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # JSON's strings are YAML's, too


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
