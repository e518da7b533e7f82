"""Waiting for other processes: never in silence, never for long, never down with a core dump."""

import os
import socket
import sys
import threading
import time

import pytest
from launching import launch, refused

from transformer_jax.errors import UserError
from transformer_jax.parallel import peers
from transformer_jax.parallel.roll_call import roll_call
from transformer_jax.sweeps import child

SRUN = {
    "SLURM_JOB_ID": "4242",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-09,11]-ib,other",
}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "5",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "28672.0;tcp://10.96.0.1,10.148.0.1:34911",
}
NO_FLAGS = (None, None, None)


@pytest.fixture
def started(monkeypatch):
    """started({variable: value}): as if a program that sets these had started this process."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "JAX_COORDINATOR")):
            monkeypatch.delenv(name)

    def start(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return start


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def company(port, number, index):
    return peers.find(f"localhost:{port}", number, index)


def together(*called, wait_seconds):
    """What roll calls in several threads raise; None if they return."""
    raised = [None] * len(called)

    def call(place):
        try:
            roll_call(called[place], wait_seconds=wait_seconds)
        except UserError as e:
            raised[place] = str(e)

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(called))]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("index", ["0", "3"])
def test_alone_under_srun_it_logs_so_at_once_and_stops(started, tmp_path, index):
    started(SRUN | {"SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": index})
    begun = time.monotonic()
    done = launch("--mode=evaluate", f"--workdir={tmp_path}", "--wait_seconds=1")
    assert done.returncode == 2 and time.monotonic() - begun < 60
    waits, error = done.stderr.splitlines()
    assert waits.startswith(f"process {index} of 5 waits for 4 others at localhost:61586 ")
    assert "from SLURM_NTASKS=5: start it with srun, or unset it" in waits
    assert error.startswith("error: process")
    assert "within --wait_seconds=1 (from SLURM_NTASKS=5: " in error


@pytest.mark.parametrize("mode", ["translate", "describe", "report", "export", "import", "compare"])
def test_what_needs_no_company_joins_nobody(started, tmp_path, mode):
    started(SRUN)
    done = launch(f"--mode={mode}", f"--workdir={tmp_path / 'none'}")
    assert "waits" not in done.stderr and "SLURM" not in done.stderr


@pytest.mark.parametrize("variables", [SRUN, MPIRUN])
def test_half_of_the_variables_are_not_taken_for_none(started, variables):
    for lost in variables:
        for name in variables:
            os.environ.pop(name, None)
        started({name: value for name, value in variables.items() if name != lost})
        message = refused(peers.find, *NO_FLAGS)
        assert f"{lost} is missing" in message and "unset it" in message
        # Open MPI 5 has no such address, so that it would not help to start it with mpirun.
        address = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "OMPI_MCA_orte_hnp_uri")
        assert ("give --coordinator=HOST:PORT" in message) == (lost in address)


@pytest.mark.parametrize(
    "stray",
    [
        {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        SRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # salloc's interactive step
        SRUN | MPIRUN | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
def test_an_interactive_allocation_is_one_process(started, stray):
    started(stray)
    assert peers.find(*NO_FLAGS) is None


def test_what_srun_and_mpirun_describe(started):
    started(SRUN)
    found = peers.find(*NO_FLAGS)
    assert (found.coordinator, found.number, found.index) == ("gpu07-ib:61586", 5, 3)
    assert found.local_device == 1
    started({"SLURM_STEP_NODELIST": "node1,node2", "JAX_COORDINATOR_PORT": "999"})
    assert peers.find(*NO_FLAGS).coordinator == "node1:999"
    # What the flags leave out, the variables hold.
    found = peers.find("other:1234", None, None)
    assert (found.coordinator, found.number, found.index) == ("other:1234", 5, 3)
    started(MPIRUN | {"JAX_COORDINATOR_PORT": ""})
    assert peers.find(*NO_FLAGS).coordinator == "10.96.0.1:61447"  # 28672 / 4096 = 7


def test_a_point_of_a_sweep_is_a_run_of_its_own(started, tmp_path):
    started(SRUN | MPIRUN)
    print_peers = "from transformer_jax.parallel import peers; print(peers.find(None, None, None))"
    point = child.start([sys.executable, "-c", print_peers], tmp_path)
    assert point.wait() == 0 and point.reason() == "None"


def test_half_of_the_flags(started):
    started({})
    assert "--process_id is missing: " in refused(peers.find, "localhost:1", 2, None)
    assert "--num_processes and --process_id are missing: " in refused(
        peers.find, "a:1", None, None
    )
    assert "--coordinator is missing: " in refused(peers.find, None, 2, 1)
    assert "process 2 cannot be one of 2 " in refused(peers.find, "localhost:1", 2, 2)
    started({"SLURM_NTASKS": "1"})  # which does not make up for them
    assert "--num_processes and " in refused(peers.find, "localhost:1", None, None)
    started({"SLURM_NTASKS": "many"})
    assert "SLURM_NTASKS='many' is not a whole number" in refused(peers.find, *NO_FLAGS)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_come(started, order):
    started({})
    port = free_port()
    assert together(*(company(port, 3, i) for i in order), wait_seconds=20) == [None] * 3


def test_who_is_missing(started):
    """Those who came learn it, too."""
    started({})
    port = free_port()
    raised = together(*(company(port, 5, i) for i in (0, 3)), wait_seconds=1)
    for message in raised:
        assert f"processes 1, 2, 4 of 5 did not connect to localhost:{port} within " in message


def test_two_of_one_number_and_two_numbers(started):
    started({})
    port = free_port()
    first, again, other = (company(port, *who) for who in ((5, 1), (5, 1), (7, 2)))
    raised = together(company(port, 5, 0), first, again, other, wait_seconds=1.5)
    assert raised[2] == "there are two processes with the number 1"
    assert raised[3] == "process 2 is one of 7, process 0 of 5"
    assert "processes 2, 3, 4 of 5 did not connect" in raised[1]


def test_one_that_ended_while_it_waited_may_come_again(started):
    started({})
    port = free_port()
    first, second, third = (company(port, 3, index) for index in range(3))
    waiting = threading.Thread(target=roll_call, args=[first], kwargs={"wait_seconds": 20})
    waiting.start()
    assert "not all processes connected" in refused(roll_call, second, wait_seconds=0.5)
    time.sleep(1)
    assert together(second, third, wait_seconds=20) == [None, None]
    waiting.join()


def test_nobody_and_somebody_else_at_the_address(started):
    started({})
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(roll_call, company(port, 2, 0), wait_seconds=1)
        assert f"cannot listen at localhost:{port}" in message
        message = refused(roll_call, company(port, 2, 1), wait_seconds=0.5)
        assert "not all processes connected" in message
    message = refused(roll_call, company(free_port(), 2, 1), wait_seconds=0.5)
    assert "process 0 cannot be reached" in message and "refused" in message
