"""A device of its own for each worker of a sweep."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeping import finish, notes, seeds, start

from transformer_jax.sweeps import slots

NVIDIA_SMI = """#!/bin/sh
[ "$1" = -L ] || exit 1
for n in 0 1 2; do
    echo "GPU $n: NVIDIA H100 (UUID: GPU-$n)"
    echo "  MIG 1g.10gb Device 0: (UUID: MIG-$n)"
done
"""
operations = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=41)


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine with three GPUs, as nvidia-smi lists them."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    for name in ("JAX_PLATFORMS", slots.GPUS, slots.CHIPS):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.fast
@given(workers=st.integers(2, 7), devices=st.integers(1, 7), order=operations)
def test_no_two_workers_share_a_device_while_another_is_free(workers, devices, order):
    listed = [str(n) for n in range(devices)]
    found = slots.find(workers, {slots.GPUS: ",".join(listed)})
    living = {}
    for starts, worker in order:
        if not starts:
            found.give_back(worker)
            living.pop(worker, None)
        elif len(living) < workers and worker not in living:
            least = min(list(living.values()).count(device) for device in listed)
            device = found.take(worker)[slots.GPUS]
            assert list(living.values()).count(device) == least
            living[worker] = device


@pytest.mark.fast
@pytest.mark.parametrize(
    ("environment", "taken"),
    [
        (
            {"CUDA_VISIBLE_DEVICES": "3, GPU-7"},
            [{"CUDA_VISIBLE_DEVICES": d} for d in ("3", "GPU-7")],
        ),
        (
            {"TPU_VISIBLE_CHIPS": "2,3"},
            [
                {
                    "TPU_VISIBLE_CHIPS": chip,
                    "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
                    "TPU_PROCESS_BOUNDS": "1,1,1",
                }
                for chip in ("2", "3")
            ],
        ),
        ({}, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        ({"CUDA_VISIBLE_DEVICES": ""}, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, [{}, {}]),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "JAX_PLATFORMS": "cpu"}, [{}, {}]),
    ],
)
def test_what_the_environment_lists_is_respected(gpus, environment, taken):
    found = slots.find(2, environment)
    assert [found.take("a"), found.take("b")] == taken


@pytest.mark.fast
def test_a_single_worker_keeps_every_device():
    assert slots.find(1, {slots.GPUS: "0,1"}).take("a") == {}


@pytest.mark.fast
def test_more_workers_than_devices_share_them(capsys):
    found = slots.find(3, {slots.GPUS: "0,1"})
    assert "3 workers share 2 devices: 0, 1" in capsys.readouterr().err
    assert [found.take(worker)[slots.GPUS] for worker in "abc"] == ["0", "1", "0"]


def test_no_two_living_children_share_a_gpu(folder, gpus):
    status, printed = finish(start(seeds(11), workers=3))
    assert status == 0, printed
    runs = []
    for seed in range(11):
        (_, _, device, begin), (last, _, _, end) = notes(f"seed_{seed}")
        assert last == "end"
        runs.append((device, begin, end))
    assert {device for device, *_ in runs} == {"0", "1", "2"}
    runs.sort()
    for (device, _, end), (next_device, begin, _) in itertools.pairwise(runs):
        assert device != next_device or end < begin
