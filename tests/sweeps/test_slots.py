"""A device of its own for each worker of a sweep."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeping import events, finish, seeds, start

from transformer_jax.sweeps import slots

NVIDIA_SMI = """#!/bin/sh
[ "$1" = -L ] || exit 1
for n in 0 1 2; do echo "GPU $n: NVIDIA H100 (UUID: GPU-$n)"; done
"""


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine with three GPUs, as nvidia-smi lists them."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)


@pytest.mark.fast
@given(
    workers=st.integers(2, 7),
    devices=st.integers(1, 7),
    order=st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=41),
)
def test_no_two_workers_share_a_device_while_there_are_enough(workers, devices, order):
    listed = [str(n) for n in range(devices)]
    found = slots.find(workers, {"CUDA_VISIBLE_DEVICES": ",".join(listed)})
    living = {}
    for starts, number in order:
        name = f"seed_{number}"
        if starts and len(living) < workers and name not in living:
            living[name] = found.take(name)["CUDA_VISIBLE_DEVICES"]
        elif not starts and name in living:
            found.give_back(name)
            del living[name]
        used = [list(living.values()).count(device) for device in listed]
        assert sum(used) == len(living)
        assert max(used) <= -(-workers // devices), "shared by more than need be"


@pytest.mark.fast
def test_what_the_environment_lists_is_respected():
    found = slots.find(2, {"CUDA_VISIBLE_DEVICES": "3, GPU-7"})
    assert found.take("a") == {"CUDA_VISIBLE_DEVICES": "3"}
    assert found.take("b") == {"CUDA_VISIBLE_DEVICES": "GPU-7"}
    found = slots.find(2, {"TPU_VISIBLE_CHIPS": "2,3"})
    taken = found.take("a")
    assert taken["TPU_VISIBLE_CHIPS"] == "2" and taken["TPU_PROCESS_BOUNDS"] == "1,1,1"


@pytest.mark.fast
def test_a_single_worker_and_a_cpu_need_no_device():
    assert slots.find(1, {"CUDA_VISIBLE_DEVICES": "0,1"}).take("a") == {}
    assert slots.find(2, {"CUDA_VISIBLE_DEVICES": "0,1", "JAX_PLATFORMS": "cpu"}).take("a") == {}


def test_more_workers_than_devices_share_them(capsys):
    found = slots.find(3, {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert "3 workers share 2 devices: 0, 1" in capsys.readouterr().err
    assert [found.take(n)["CUDA_VISIBLE_DEVICES"] for n in "abc"] == ["0", "1", "0"]


def test_children_run_on_the_gpus_that_nvidia_smi_lists(folder, gpus):
    status, said = finish(start(seeds(7), workers=3))
    assert status == 0, said
    used = [Path("run", f"seed_{n}", "devices").read_text().split() for n in range(7)]
    assert {device for (device,) in used} == {"0", "1", "2"}
    assert len({device for (device,) in used[:3]}) == 3, "the first three run at once"
    assert all([event for event, _ in events(f"seed_{n}")] == ["start", "end"] for n in range(7))
