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


def chip(number):
    bounds = dict.fromkeys(("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_PROCESS_BOUNDS"), "1,1,1")
    return {slots.CHIPS: number} | bounds


@pytest.mark.fast
@pytest.mark.parametrize(
    ("workers", "environment", "taken"),
    [
        (2, {slots.GPUS: "3, GPU-7"}, [{slots.GPUS: "3"}, {slots.GPUS: "GPU-7"}]),
        (2, {slots.CHIPS: "2,3"}, [chip("2"), chip("3")]),
        (2, {}, [{slots.GPUS: "0"}, {slots.GPUS: "1"}]),  # as nvidia-smi lists them
        (2, {slots.GPUS: ""}, [{}, {}]),
        (2, {slots.GPUS: "-1"}, [{}, {}]),
        (2, {slots.GPUS: "0,1", "JAX_PLATFORMS": "cpu"}, [{}, {}]),
        (1, {slots.GPUS: "0,1"}, [{}]),  # a single worker keeps every device
        (3, {slots.GPUS: "0,1"}, [{slots.GPUS: n} for n in "010"]),
    ],
)
def test_what_the_environment_lists_is_respected(gpus, capsys, workers, environment, taken):
    found = slots.find(workers, environment)
    assert [found.take(str(worker)) for worker in range(workers)] == taken
    shared = "3 workers share 2 devices: 0, 1" in capsys.readouterr().err
    assert shared == (workers == 3)


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
