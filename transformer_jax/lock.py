"""One run in a workdir at a time.

The file `lock` says who is there. On one machine the operating system holds the lock, and lets go
of it when the process dies, however it dies. Other machines, and buckets, know only what the file
says: it is written anew every half minute, and does not count when it is three minutes old.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer_jax import parallel, processes, storage
from transformer_jax.config import UserError, is_remote, write_whole

try:
    import fcntl
except ImportError:  # not on Windows: what the file says has to do
    fcntl = None

NAME = "lock"
_REFRESHED_EVERY = 30.0  # seconds
_STALE_AFTER = 180.0


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Holds `workdir`, made if need be, for the processes of this run; the first one writes.

    Raises:
      UserError: in all of them, if another run is there: naming its process and machine.
    """
    storage.make_folder(workdir)
    lock = _Lock(workdir / NAME)
    refusal = lock.acquire() if parallel.is_writer() else ""
    if parallel.agreed(int(bool(refusal))):
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
        if owner and not self._is_stale(owner):
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

    def _is_stale(self, owner: dict[str, Any]) -> bool:
        if owner.get("host") == socket.gethostname():
            # With the file's lock in hand its owner is dead; else its process number says so.
            return self._file is not None or not processes.alive(owner.get("pid"))
        return time.time() - owner.get("time", 0) > _STALE_AFTER

    def _refusal(self, owner: dict[str, Any]) -> str:
        who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"
        if owner.get("host") in (None, socket.gethostname()):
            return f"{self._path.parent} is in use by {who}: wait for it, or stop it"
        age = max(0, time.time() - owner.get("time", 0))
        return (
            f"{self._path.parent} is in use by {who}, which gave a sign of life {age:.0f} s ago: "
            f"stop it; if it is dead, it is forgotten {_STALE_AFTER:.0f} s after its last sign"
        )

    def _refresh(self) -> None:
        while not self._over.wait(_REFRESHED_EVERY):
            with contextlib.suppress(UserError, OSError):  # a full disk does not end a training
                self._write()

    def _write(self) -> None:
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})
        if self._file is None:
            write_whole(self._path, text)
            return
        # In place: another file would be another lock.
        os.pwrite(self._file, text.ljust(_LONGEST).encode(), 0)


_LONGEST = 400  # characters of what the file says; a shorter text then covers a longer one


def _lock_file(path: Path) -> int | None:
    """The file, open and locked; None on a file system without locks.

    Raises:
      BlockingIOError: if another process has locked it.
    """
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
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


def _read(path: Path) -> dict[str, Any]:
    try:
        owner = json.loads(path.read_text())
    except (OSError, ValueError):  # none, or cut short by a full disk
        return {}
    return owner if isinstance(owner, dict) else {}
