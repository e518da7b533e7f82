"""One run in a workdir: who is second is refused, and the dead are forgotten."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from launching import ROOT

from transformer_jax import lock
from transformer_jax.config import UserError

HOLD = (
    "import sys, time, pathlib; from transformer_jax import lock\n"
    "with lock.held(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the workdir."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_refused_and_told_who_is_first(holder, tmp_path):
    host = socket.gethostname()
    message = f"is in use by process {holder.pid} on {host}"
    with pytest.raises(UserError, match=message), lock.held(tmp_path):
        raise AssertionError
    with pytest.raises(UserError, match=message), lock.held(tmp_path):
        raise AssertionError("asking takes nothing away")


def test_a_dead_process_is_forgotten_at_once(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.NAME).exists()
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / lock.NAME).exists()


def test_it_can_be_held_again(tmp_path):
    for _ in range(2):
        with lock.held(tmp_path / "new"):
            pass
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path):
        raise ZeroDivisionError
    with lock.held(tmp_path):
        pass


@pytest.mark.parametrize(("age", "refused"), [(0, True), (170, True), (190, False)])
def test_another_machine_counts_while_it_gives_signs_of_life(tmp_path, age, refused):
    owner = {"host": "elsewhere", "pid": 1, "time": time.time() - age}
    (tmp_path / lock.NAME).write_text(json.dumps(owner))
    if not refused:
        with lock.held(tmp_path):
            return
    message = "process 1 on elsewhere, which gave a sign of life"
    with pytest.raises(UserError, match=message), lock.held(tmp_path):
        raise AssertionError


def test_it_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_REFRESHED_EVERY", 0.05)
    with lock.held(tmp_path):
        first = json.loads((tmp_path / lock.NAME).read_text())["time"]
        time.sleep(0.5)
        assert json.loads((tmp_path / lock.NAME).read_text())["time"] > first


@pytest.mark.parametrize("content", ["", "{", "[]", "nothing", '{"host": 3}'])
def test_a_lock_that_says_nothing_is_nobodys(tmp_path, content):
    (tmp_path / lock.NAME).write_text(content)
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_without_locks_of_the_file_system_the_process_number_decides(tmp_path, monkeypatch):
    """As in a bucket."""
    monkeypatch.setattr(lock, "fcntl", None)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    owner = {"host": socket.gethostname(), "pid": dead.pid, "time": time.time()}
    (tmp_path / lock.NAME).write_text(json.dumps(owner))
    with lock.held(tmp_path):
        pass
    owner["pid"] = os.getppid()
    (tmp_path / lock.NAME).write_text(json.dumps(owner))
    with pytest.raises(UserError, match=f"process {os.getppid()}"), lock.held(tmp_path):
        raise AssertionError
