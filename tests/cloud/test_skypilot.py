"""A SkyPilot task: its YAML has the options, and its commands are the launch line."""

import shlex
import subprocess

import pytest
import yaml

from transformer_jax.cloud import skypilot
from transformer_jax.errors import UserError

HOSTILE = "--config.demo=我 'a' \"b\" $(touch pwned): - # {c} \\ %d"


def task(**options):
    defaults = {"name": "a-run", "accelerator": "v5litepod-16", "folder": "/a: checkout"}
    return yaml.safe_load(skypilot.task(["--workdir=gs://b", HOSTILE], **defaults | options))


@pytest.mark.parametrize(
    ("options", "resources", "packages"),
    [
        (
            {"zone": "us-west4-a", "spot": True},
            {
                "infra": "gcp/us-west4/us-west4-a",
                "accelerators": "tpu-v5litepod-16",
                "accelerator_args": {"runtime_version": "v2-alpha-tpuv5-lite"},
                "use_spot": True,
            },
            "'jax[tpu]' gcsfs",
        ),
        (
            {"accelerator": "v9x-8", "runtime_version": "new: 1"},
            {
                "infra": "gcp",
                "accelerators": "tpu-v9x-8",
                "accelerator_args": {"runtime_version": "new: 1"},
            },
            "'jax[tpu]' gcsfs",
        ),
        ({"accelerator": "A100:8"}, {"accelerators": "A100:8"}, "'jax[cuda13]' gcsfs"),
    ],
)
def test_a_task_asks_for_the_machine_and_runs_the_launch_line(options, resources, packages):
    found = task(**options)
    setup, run = found.pop("setup"), found.pop("run")
    assert found == {"name": "a-run", "workdir": "/a: checkout", "resources": resources}
    assert shlex.split(run) == [".venv/bin/python", "launch.py", "--workdir=gs://b", HOSTILE]
    assert setup.startswith("set -e\n") and packages in setup
    assert subprocess.run(["bash", "-n"], input=setup, text=True).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "v5e-16"}, "is none of v4-N"),
        ({"accelerator": "A100:8", "runtime_version": "x"}, "--accelerator=A100:8 is not one"),
        ({"name": "a_b"}, "--name="),
    ],
)
def test_a_machine_that_does_not_exist_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        task(**options)
