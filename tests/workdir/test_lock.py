"""One run at a time in a workdir: the second is refused, and a dead one's lock is taken over."""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from launching import ROOT, fill, refused

from transformer_jax.errors import UserError
from transformer_jax.parallel.host import alive, boot_id, host_id
from transformer_jax.workdir import lock

HOLD = (
    "import sys, time, pathlib; from transformer_jax.workdir import lock\n"
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


@pytest.fixture(params=["a bucket", "a file system without locks"])
def no_locks(request, monkeypatch):
    """There the file's content decides."""

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    if request.param == "a bucket":
        monkeypatch.setattr(lock, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", refuse)


def owner(**what):
    """The content of a lock file; by default of a living process of this machine."""
    here = {"host": host_id(), "boot": lock.boot_id(), "run": "another"}
    return here | {"pid": os.getppid(), "time": time.time()} | what


def read(workdir):
    return json.loads((workdir / lock.NAME).read_text())


def is_free(workdir, content):
    """Whether a workdir with this lock can be held; if not, the error names its owner."""
    (workdir / lock.NAME).write_text(json.dumps(content))
    try:
        with lock.held(workdir):
            assert read(workdir)["pid"] == os.getpid()
    except UserError as e:
        assert f"in use by process {content['pid']} on {content['host'].split()[0]}" in str(e)
        return False
    return True


def refusal(workdir):
    """The error of a second run."""
    return refused(lock.held(workdir).__enter__)


def test_the_second_is_refused_and_the_error_names_the_first(holder, tmp_path):
    for _ in range(2):  # asking takes nothing away
        assert f"is in use by process {holder.pid} on {socket.gethostname()}" in refusal(tmp_path)


def test_the_lock_of_a_dead_process_is_taken_over_at_once(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / lock.NAME).exists()
    with lock.held(tmp_path):
        assert read(tmp_path)["pid"] == os.getpid()
    assert not (tmp_path / lock.NAME).exists()


def test_it_can_be_held_again_and_has_a_heartbeat(tmp_path, monkeypatch):
    for _ in range(2):
        with lock.held(tmp_path / "new"):
            pass
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path):
        raise ZeroDivisionError
    with lock.held(tmp_path):
        pass
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    with lock.held(tmp_path):
        first = read(tmp_path)["time"]
        time.sleep(0.5)
        assert read(tmp_path)["time"] > first


@pytest.mark.parametrize(("age", "free"), [(0, False), (170, False), (190, True)])
def test_another_machine_counts_until_its_heartbeat_is_old(tmp_path, age, free):
    content = owner(host="elsewhere", boot="another", pid=1, time=time.time() - age)
    assert is_free(tmp_path, content) == free
    if not free:
        message = r"process 1 on elsewhere, last heartbeat \d+ s ago: .* expires 180 s after"
        assert re.search(message, refusal(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", "nothing", '{"host": 3}', "x" * 10_000])
def test_a_lock_without_an_owner_is_free(tmp_path, content):
    (tmp_path / lock.NAME).write_text(content)
    with lock.held(tmp_path):
        assert read(tmp_path)["pid"] == os.getpid()


# Not as a lock is written, in one respect each. A machine elsewhere, so that nothing else frees it.
ODD = [
    *({"host": host} for host in (None, 3, ["a"], "two\nlines")),
    *({"pid": pid} for pid in (None, "1", True, 0, -1, 1.0, 10**30, [])),
    *({"time": at} for at in (None, "y", True, float("nan"), float("inf"), 1e12, 10**400, -1)),
    *({"boot": 3}, {"run": None}),
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_a_lock_that_no_run_can_have_written_is_free(tmp_path, odd):
    content = owner(host="elsewhere", boot="another")
    assert not is_free(tmp_path, content)
    assert is_free(tmp_path, content | odd)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = {
    "host": JSON | st.sampled_from([host_id(), socket.gethostname(), "elsewhere"]),
    "pid": JSON | st.sampled_from([os.getpid(), os.getppid(), 0, -1, 2**31, 10**30]),
    "time": JSON | st.sampled_from([time.time(), 0, 1e300, 10**400]),
}
OTHERS = {"boot": JSON | st.sampled_from([boot_id()]), "run": JSON}


CONTENT = st.fixed_dictionaries(FIELDS, optional=OTHERS) | JSON


@pytest.mark.parametrize("flock", [fcntl, None], ids=["locks", "no locks"])
@given(st.binary() | CONTENT.map(lambda content: json.dumps(content).encode()))
@example(b"[" * 399)
@example(b"\xff\xfe")
def test_whatever_the_lock_holds_it_is_taken_or_refused_in_one_line(
    tmp_path_factory, flock, content
):
    workdir = tmp_path_factory.mktemp("w")
    (workdir / lock.NAME).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(lock, "fcntl", flock)
        try:
            stack.enter_context(lock.held(workdir))
        except UserError as e:
            assert "in use" in str(e) and len(str(e).splitlines()) == 1
            assert (workdir / lock.NAME).read_bytes() == content


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "mine").write_text("text")
    (tmp_path / lock.NAME).symlink_to(tmp_path / "mine")
    assert "cannot write" in refusal(tmp_path)
    assert (tmp_path / "mine").read_text() == "text"


def test_without_locks_of_the_file_system_the_process_number_decides(tmp_path, no_locks):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert not is_free(tmp_path, owner())
    assert is_free(tmp_path, owner(pid=dead.pid))
    for elsewhere in ({"host": host_id() + "7"}, {"boot": "another"}):  # it means nothing here
        assert not is_free(tmp_path, owner(pid=dead.pid, **elsewhere))
    # Its number may be another process's now: an old heartbeat is of a dead one.
    assert not is_free(tmp_path, owner(time=time.time() - 170))
    assert is_free(tmp_path, owner(time=time.time() - 190))
    # A container started again gives the same numbers.
    assert is_free(tmp_path, owner(pid=os.getpid()))
    with lock.held(tmp_path):
        assert f"in use by process {os.getpid()} " in refusal(tmp_path)


def test_with_them_a_dead_one_is_known_by_its_machines_name_or_boot(tmp_path, monkeypatch):
    """A container started again may have another name; a machine started again has another boot."""
    monkeypatch.setattr(lock, "boot_id", lambda: "this")
    assert is_free(tmp_path, owner(boot="another"))
    assert is_free(tmp_path, owner(host="renamed pid:[7]"))
    assert not is_free(tmp_path, owner(host="renamed pid:[7]", boot="another"))
    monkeypatch.setattr(lock, "boot_id", lambda: "")
    assert not is_free(tmp_path, owner(host="renamed pid:[7]")), "two that have none differ"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have none")
def test_which_processes_live_and_the_name_of_a_boot(monkeypatch):
    for number in (0, -1, 2**31, 10**30):
        assert not alive(number)
    assert alive(os.getpid()) and alive(1)

    def kill(number, signal):
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert alive(7), "it is another user's"
    assert len(boot_id()) == 36


def test_a_lock_file_that_its_last_owner_removes_meanwhile_is_not_used(tmp_path, monkeypatch):
    """Between opening and locking it: a third run would lock another file of that name."""
    flock, removed = fcntl.flock, []

    def after_a_removal(file, operation):
        if not removed:
            removed.append((tmp_path / lock.NAME).unlink())
        return flock(file, operation)

    monkeypatch.setattr(lock.fcntl, "flock", after_a_removal)
    with lock.held(tmp_path):
        assert read(tmp_path)["pid"] == os.getpid()
        with (tmp_path / lock.NAME).open() as file, pytest.raises(BlockingIOError):
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_full_disk_is_an_error_at_the_start_and_none_later(small_disk, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    with lock.held(small_disk):
        filler = fill(small_disk)
        time.sleep(0.1)
    filler.unlink()
    fill(small_disk)
    assert f"cannot write {small_disk}/lock: No space" in refusal(small_disk)
