"""One run at a time in a workdir.

The file `lock` names the process that trains there. On one machine the operating system locks that
file, and unlocks it when the process dies, however it dies. Another machine, and a bucket, know
only what the file says: its owner rewrites it every 30 s, and it expires after 180 s.

This is not filelock's SoftFileLease, which has no buckets, and measures the age of a heartbeat by
watching the file: a run that died on another machine would block each new start for three minutes.
"""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transformer_jax import storage
from transformer_jax.errors import UserError
from transformer_jax.parallel import processes
from transformer_jax.parallel.host import alive, boot_id, host_id
from transformer_jax.storage import is_remote, write_whole

try:
    import fcntl
except ImportError:  # on Windows the file's content decides
    fcntl = None

NAME = "lock"
HEARTBEAT_SECONDS = 30.0
EXPIRES_AFTER = 180.0  # seconds since the last heartbeat
_RUN = uuid.uuid4().hex
_LENGTH = 400  # bytes of a lock file, so that a shorter text covers a longer one


class _Owner(NamedTuple):
    """The process that wrote a lock file.

    Attributes:
      host, boot: where its process number counts; see `parallel.host`.
      pid: its process number.
      time: of its last heartbeat, in seconds since 1970.
      run: differs between two processes with the same number.
    """

    host: str
    pid: int
    time: float
    boot: str = ""
    run: str = ""

    @property
    def name(self) -> str:
        """The name of its machine or container."""
        return self.host.partition(" ")[0]


def _this_process() -> _Owner:
    return _Owner(host_id(), os.getpid(), time.time(), boot_id(), _RUN)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds `workdir`, created if need be, for the processes of this run; the first one writes.

    Raises:
      UserError: in all of them, if another run holds it, with its process and machine.
    """
    storage.make_folder(workdir)
    with contextlib.ExitStack() as release:
        refusal = _acquire(workdir / NAME, release) if processes.is_writer() else ""
        if processes.agreed(int(bool(refusal))):
            raise UserError(refusal or f"{workdir} is in use by another run")
        yield


def _acquire(path: Path, release: contextlib.ExitStack) -> str:
    """Takes the lock until `release` is closed and returns ""; or returns why it cannot."""
    file = None
    # Nothing can be locked in a bucket, so two runs that start in the same second may both begin.
    if fcntl and not is_remote(path):
        try:
            file = _open_locked(path)
        except BlockingIOError:
            return _refusal(path, _read(path))
    if file is not None:
        release.callback(os.close, file)
    owner = _read(path)
    if owner is not None and not _is_stale(owner, locked=file is not None):
        return _refusal(path, owner)
    _write(path, file)
    release.callback(path.unlink, missing_ok=True)
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, file, done), daemon=True)
    heart.start()
    release.callback(heart.join)
    release.callback(done.set)
    return ""


def _beat(path: Path, file: int | None, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(UserError):  # a full disk does not stop a training
            _write(path, file)


def _write(path: Path, file: int | None) -> None:
    text = json.dumps(_this_process()._asdict())
    if file is None:
        write_whole(path, text)
        return
    try:  # in place: the lock belongs to this file, not to its name
        os.pwrite(file, text.ljust(_LENGTH).encode(), 0)
        os.ftruncate(file, _LENGTH)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}") from None


def _open_locked(path: Path) -> int | None:
    """The file, open and locked; None on a file system without locks.

    Raises:
      BlockingIOError: if another process has locked it.
    """
    while True:
        try:
            # Not through a link, which could lead to any file.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as e:
            raise UserError(f"cannot write {path}: {e.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            os.close(file)
            if isinstance(e, BlockingIOError):
                raise
            return None
        # Its last owner may have removed it between the two calls.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)


def _is_stale(owner: _Owner, *, locked: bool) -> bool:
    """Whether `owner` is dead, given whether this process has locked the file."""
    me = _this_process()
    if me.time - owner.time > EXPIRES_AFTER:
        return True
    if locked:
        # No other process of this machine has locked it, but one elsewhere may have: some network
        # file systems lock per machine. A restarted container may have another name.
        return owner.name == me.name or owner.boot == me.boot != ""
    if (owner.host, owner.boot) != (me.host, me.boot):
        return False
    if owner.pid == me.pid:  # a restarted container assigns the same numbers again
        return owner.run != me.run
    return not alive(owner.pid)


def _refusal(path: Path, owner: _Owner | None) -> str:
    if owner is None:
        return f"{path.parent} is in use: wait for the other run to end, or stop it"
    who, me = f"{path.parent} is in use by process {owner.pid} on {owner.name}", _this_process()
    if (owner.host, owner.boot) == (me.host, me.boot):
        return f"{who}: wait for it to end, or stop it"
    return (
        f"{who}, last heartbeat {max(0, me.time - owner.time):.0f} s ago: stop it, or wait; the "
        f"lock expires {EXPIRES_AFTER:.0f} s after the last heartbeat"
    )


def _read(path: Path) -> _Owner | None:
    """The owner that a lock file names; None if there is no file, or none that a run can write."""
    try:
        with path.open("rb") as file:
            owner = _Owner(**json.loads(file.read(_LENGTH + 1)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    as_written = (
        [type(value) for value in owner] == [str, int, float, str, str]
        and owner.host.isprintable()  # an error is one line
        and 0 < owner.pid < 2**32
        and 0 < owner.time < 1e11  # not nan
    )
    return owner if as_written else None
