"""A SkyPilot task: its YAML has the options, and its commands are the launch line."""

import shlex
import subprocess

import pytest
import yaml

from transformer_jax.cloud import skypilot
from transformer_jax.errors import UserError

HOSTILE = "--config.demo=我 'a' \"b\" $(touch pwned): - # {c} \\ %d"


def sky(**options):
    defaults = {
        "name": "a-run",
        "accelerator": "v5litepod-16",
        "arguments": ("--workdir=gs://b",),
        "folder": "/a: checkout",
    }
    return skypilot.SkyTask(**defaults | options)


def test_a_cloud_tpu_on_spot():
    task = yaml.safe_load(skypilot.task(sky(zone="us-west4-a", spot=True)))
    setup = task.pop("setup")
    assert task == {
        "name": "a-run",
        "workdir": "/a: checkout",
        "resources": {
            "infra": "gcp/us-west4/us-west4-a",
            "accelerators": "tpu-v5litepod-16",
            "accelerator_args": {"runtime_version": "v2-alpha-tpuv5-lite"},
            "use_spot": True,
        },
        "run": ".venv/bin/python launch.py --workdir=gs://b\n",
    }
    assert setup.startswith("set -e\n")
    assert "'jax[tpu]' gcsfs" in setup
    assert subprocess.run(["bash", "-n"], input=setup, text=True).returncode == 0


def test_a_gpu_anywhere():
    task = yaml.safe_load(skypilot.task(sky(accelerator="A100:8")))
    assert task["resources"] == {"accelerators": "A100:8"}
    assert "'jax[cuda13]' gcsfs" in task["setup"]


def test_a_tpu_anywhere_is_google_clouds_and_its_software_can_be_chosen():
    task = yaml.safe_load(skypilot.task(sky(accelerator="v9x-8", runtime_version="new: 1")))
    assert task["resources"] == {
        "infra": "gcp",
        "accelerators": "tpu-v9x-8",
        "accelerator_args": {"runtime_version": "new: 1"},
    }


def test_the_launch_line_survives_yaml_and_the_shell():
    task = yaml.safe_load(skypilot.task(sky(arguments=("--workdir=gs://b", HOSTILE))))
    words = shlex.split(task["run"])
    assert words == [".venv/bin/python", "launch.py", "--workdir=gs://b", HOSTILE]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="is none of v4-N"):
        skypilot.task(sky(accelerator="v5e-16"))
    with pytest.raises(
        UserError, match="--runtime_version is for Cloud TPUs, and --accelerator=A100:8 is not one"
    ):
        skypilot.task(sky(accelerator="A100:8", runtime_version="x"))
    with pytest.raises(UserError, match="--name="):
        skypilot.task(sky(name="a_b"))
