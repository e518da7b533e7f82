"""One point's run: a child process, whose output is in the log.txt of its workdir.

The log also keeps a second child out of the workdir. It is locked, and the lock belongs to the open
file that is the child's standard output: it lasts exactly as long as the child lives, even if the
launcher that started it is killed.
"""

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from transformer_jax import storage
from transformer_jax.errors import PREEMPTED_STATUS

LOG = "log.txt"
# Statuses of a launcher that SIGTERM ended: with its state saved, or before it handled signals.
INTERRUPTED = (PREEMPTED_STATUS, -signal.SIGTERM)
_PR_SET_PDEATHSIG = 1


class Child:
    """A run in the background."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        """Takes the process and the file that it writes to."""
        self._process, self._log, self._since = process, log, time.monotonic()

    def status(self) -> int | None:
        """The exit status, of a signal minus its number; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Asks it to save and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Returns when it has ended."""
        self._process.wait()

    def lap(self) -> float:
        """Seconds since the start or since the last call."""
        before, self._since = self._since, time.monotonic()
        return self._since - before

    def reason(self) -> str:
        """Why it failed: the last line that it wrote, or the signal that ended it."""
        status = self._process.returncode
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return _last_line(self._log) or f"ended with status {status}"


def start(
    command: Sequence[str], workdir: Path, environment: Mapping[str, str] | None = None
) -> Child | None:
    """Runs `command` in the background; returns None while an earlier child is in the workdir.

    Args:
      command: trains in `workdir`.
      workdir: created if need be.
      environment: variables to set besides those of this process.

    Raises:
      UserError: if the workdir cannot be created.
    """
    storage.make_folder(workdir)
    path = workdir / LOG
    with path.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:  # a file system without locks: the run has a lock of its own
            pass
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Unbuffered, or its last lines would not be in the order in which they were written.
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment or {}),
            # Ctrl-C is for the launcher, which passes it on once.
            process_group=0,
            preexec_fn=_ends_with_launcher(),
        )
    return Child(process, path)


def _ends_with_launcher() -> Callable[[], None] | None:
    """For the new process: Linux sends it SIGTERM when the launcher dies, however it dies."""
    if sys.platform != "linux":
        return None
    prctl, launcher = ctypes.CDLL(None).prctl, os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:  # it died before that call
            os._exit(PREEMPTED_STATUS)

    return in_child


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 10_000))
        lines = file.read().decode(errors="replace").splitlines()
    written = [line.strip() for line in lines if line.strip()]
    return written[-1] if written and not written[-1].startswith("$ ") else ""
