"""One point's run: a child process, whose output is in the log.txt of its workdir.

The log is also what keeps a second child out of the workdir. It is locked, and the lock belongs to
the open file that is the child's standard output: it lasts exactly as long as the child lives, even
if the launcher that started it is killed.
"""

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from transformer_jax import storage
from transformer_jax.config import PREEMPTED_STATUS

LOG = "log.txt"
# Of launch.py after SIGTERM: it saved, and the same line goes on from there. Before it has taken
# the signal over, the signal ends it.
INTERRUPTED = (PREEMPTED_STATUS, -signal.SIGTERM)
_PR_SET_PDEATHSIG = 1


class Child:
    """A run that was started, and is waited for."""

    def __init__(self, process: subprocess.Popen, workdir: Path) -> None:
        self._process, self._workdir = process, workdir
        self._since = time.monotonic()

    def status(self) -> int | None:
        """Its exit status once it has ended, of a signal minus its number; None before."""
        return self._process.poll()

    def stop(self) -> None:
        """Asks it to save and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Returns when it has ended."""
        self._process.wait()

    def lap(self) -> float:
        """Seconds since it was started, or since this was last asked."""
        before, self._since = self._since, time.monotonic()
        return self._since - before

    def reason(self) -> str:
        """Why it failed: the last line that it wrote, or the signal that ended it."""
        status = self._process.returncode
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return _last_line(self._workdir / LOG) or f"ended with status {status}"


def start(command: Sequence[str], workdir: Path) -> Child | None:
    """Runs `command` in the background; None while an earlier child still has `workdir`.

    Raises:
      UserError: if `workdir` cannot be made.
    """
    storage.make_folder(workdir)
    with (workdir / LOG).open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:  # a file system without locks: launch.py has its own
            pass
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Or its last lines would not be in the order in which they were written.
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            # Ctrl-C is for the launcher, which passes it on once.
            process_group=0,
            preexec_fn=_ends_with_launcher(),
        )
    return Child(process, workdir)


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
