"""One run in a workdir at a time.

The file `lock` says who is there. On one machine the operating system holds the lock, and lets go
of it when the process dies, however it dies. Other machines, and buckets, know only what the file
says: it is written anew every half minute, and does not count when it is three minutes old.
"""

import contextlib
import dataclasses
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer_jax import storage
from transformer_jax.errors import UserError
from transformer_jax.parallel import processes
from transformer_jax.parallel.host import alive, boot_id, host_id
from transformer_jax.storage import is_remote, write_whole

try:
    import fcntl
except ImportError:  # not on Windows: what the file says has to do
    fcntl = None

NAME = "lock"
_REFRESHED_EVERY = 30.0  # seconds
_STALE_AFTER = 180.0
_RUN = uuid.uuid4().hex


@dataclasses.dataclass(frozen=True)
class _Owner:
    """What a lock file says of the process that wrote it.

    Attributes:
      host: see `processes.host`.
      pid: its number.
      time: of its last sign of life, in seconds since 1970.
      boot: see `processes.boot_id`.
      run: no other process's, not even one's of the same number.
    """

    host: str
    pid: int
    time: float
    boot: str = ""
    run: str = ""

    @property
    def name(self) -> str:
        """Of its machine or container."""
        return self.host.partition(" ")[0]

    @property
    def numbering(self) -> tuple[str, str]:
        """Where equal process numbers are one process."""
        return self.host, self.boot


def _this_process() -> _Owner:
    return _Owner(host_id(), os.getpid(), time.time(), boot_id(), _RUN)


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds `workdir`, made if need be, for the processes of this run; the first one writes.

    Raises:
      UserError: in all of them, if another run is there: naming its process and machine.
    """
    storage.make_folder(workdir)
    lock = _Lock(workdir / NAME)
    refusal = lock.acquire() if processes.is_writer() else ""
    if processes.agreed(int(bool(refusal))):
        raise UserError(refusal or f"another run is in {workdir}")
    try:
        yield
    finally:
        lock.release()


class _Lock:
    """The lock of one file, for this process; releasing one that is not held does nothing."""

    def __init__(self, path: Path) -> None:
        self._path, self._file, self._over = path, None, threading.Event()
        self._refresher: threading.Thread | None = None

    def acquire(self) -> str:
        """Takes the lock and returns "", or says why it cannot."""
        # In a bucket nothing can be held, and two runs that start within a second may both begin.
        if fcntl and not is_remote(self._path):
            try:
                self._file = _lock_file(self._path)
            except BlockingIOError:
                return self._refusal(_read(self._path))
        owner = _read(self._path)
        if owner is not None and not self._is_stale(owner):
            self._let_go()
            return self._refusal(owner)
        self._write()
        self._refresher = threading.Thread(target=self._refresh, daemon=True)
        self._refresher.start()
        return ""

    def release(self) -> None:
        """Lets the next one in."""
        if self._refresher is None:
            return
        self._over.set()
        self._refresher.join()
        self._path.unlink(missing_ok=True)
        self._let_go()

    def _let_go(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def _is_stale(self, owner: _Owner) -> bool:
        if time.time() - owner.time > _STALE_AFTER:
            return True  # a living one would have written since; its number may be another's now
        me = _this_process()
        if self._file is not None:
            # With the file's lock in hand, a process of this machine is dead; not so one elsewhere,
            # as a network's file system may lock on each machine for itself. A container that is
            # started again may have another name.
            return owner.name == me.name or owner.boot == me.boot != ""
        if owner.numbering != me.numbering:
            return False
        if owner.pid == me.pid:  # a container that is started again gives the same numbers
            return owner.run != me.run
        return not alive(owner.pid)

    def _refusal(self, owner: _Owner | None) -> str:
        if owner is None:
            return f"{self._path.parent} is in use: wait for it, or stop it"
        who = f"process {owner.pid} on {owner.name}"
        if owner.numbering == _this_process().numbering:
            return f"{self._path.parent} is in use by {who}: wait for it, or stop it"
        age = max(0, time.time() - owner.time)
        return (
            f"{self._path.parent} is in use by {who}, which gave a sign of life {age:.0f} s ago: "
            f"stop it; if it is dead, it is forgotten {_STALE_AFTER:.0f} s after its last sign"
        )

    def _refresh(self) -> None:
        while not self._over.wait(_REFRESHED_EVERY):
            with contextlib.suppress(UserError, OSError):  # a full disk does not end a training
                self._write()

    def _write(self) -> None:
        text = json.dumps(dataclasses.asdict(_this_process()))
        if self._file is None:
            write_whole(self._path, text)
            return
        # In place: another file would be another lock.
        os.pwrite(self._file, text.ljust(_LONGEST).encode(), 0)
        os.ftruncate(self._file, _LONGEST)


_LONGEST = 400  # bytes of the file; a shorter text then covers a longer one


def _lock_file(path: Path) -> int | None:
    """The file, open and locked; None on a file system without locks.

    Raises:
      BlockingIOError: if another process has locked it.
    """
    while True:
        try:
            # A link in a stranger's workdir may lead to any file, which would be written over.
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
        # Its last owner may have removed it between the two calls: then it is nobody's lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)


def _read(path: Path) -> _Owner | None:
    """None if there is no such file, or one that no lock wrote: cut short by a full disk, say."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_LONGEST + 1))
    except (OSError, ValueError, RecursionError):
        return None
    return _owner(said) if isinstance(said, dict) else None


def _owner(said: dict[str, Any]) -> _Owner | None:
    host, pid, at = said.get("host"), said.get("pid"), said.get("time")
    boot, run = said.get("boot", ""), said.get("run", "")  # earlier versions wrote neither
    as_written = (
        isinstance(host, str)
        and host.isprintable()  # an error is one line
        and isinstance(boot, str)
        and isinstance(run, str)
        and type(pid) is int  # not bool, which is an int, too
        and 0 < pid < 2**32
        and isinstance(at, int | float)
        and 0 < at < 1e11  # not nan, either
    )
    return _Owner(host, pid, float(at), boot, run) if as_written else None
