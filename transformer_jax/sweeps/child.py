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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from transformer_jax import storage
from transformer_jax.errors import PREEMPTED_STATUS

LOG = "log.txt"
# Exit statuses after SIGTERM: the state is saved, or signals were not handled yet.
INTERRUPTED = (PREEMPTED_STATUS, -signal.SIGTERM)
_PR_SET_PDEATHSIG = 1


class Child:
    """A run in the background."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self._process, self._log = process, log

    def status(self) -> int | None:
        """The exit status, or minus the number of the signal; None while the child runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Sends SIGTERM: the child saves its state and exits."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        self._process.wait()

    def reason(self) -> str:
        """Why the child failed: the last line that it printed, or the signal that ended it."""
        status = self._process.returncode
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return _last_line(self._log) or f"ended with status {status}"


def start(
    command: Sequence[str], workdir: Path, environment: Mapping[str, str] | None = None
) -> Child | None:
    """Runs `command`, which trains in `workdir`, in the background.

    Returns None while an earlier child is in the workdir. `environment` adds to this process's.
    """
    storage.make_folder(workdir)
    path = workdir / LOG
    with path.open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:  # a file system without locks: the run's own lock has to do
            pass
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Unbuffered, so that the log keeps the order of the two streams.
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment or {}),
            # Ctrl-C reaches only the launcher, which passes it on once.
            process_group=0,
            preexec_fn=_end_with_launcher(),
        )
    return Child(process, path)


def _end_with_launcher() -> Callable[[], None] | None:
    """Makes Linux send the new process SIGTERM when the launcher dies, however it dies."""
    if sys.platform != "linux":
        return None
    prctl, launcher = ctypes.CDLL(None).prctl, os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:  # the launcher died before that call
            os._exit(PREEMPTED_STATUS)

    return in_child


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 10_000))
        lines = file.read().decode(errors="replace").splitlines()
    written = [line.strip() for line in lines if line.strip()]
    return written[-1] if written and not written[-1].startswith("$ ") else ""
