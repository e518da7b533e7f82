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
from typing import BinaryIO

from transformer_jax import storage
from transformer_jax.errors import PREEMPTED_STATUS
from transformer_jax.parallel import peers

LOG = "log.txt"
# Exit statuses after SIGTERM: the state is saved, or signals were not handled yet.
INTERRUPTED = (PREEMPTED_STATUS, -signal.SIGTERM)
_PROMPT = "$ "  # before the command, in the log
_PR_SET_PDEATHSIG = 1


class Child(subprocess.Popen):
    """A run in the background; SIGTERM makes it save its state and exit."""

    def __init__(
        self, command: Sequence[str], log: BinaryIO, environment: Mapping[str, str]
    ) -> None:
        super().__init__(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Unbuffered, so that the log keeps the order of the two streams.
            env=peers.alone(os.environ) | {"PYTHONUNBUFFERED": "1"} | dict(environment),
            # Ctrl-C reaches only the launcher, which passes it on once.
            process_group=0,
            preexec_fn=_end_with_launcher(),
        )
        self._log = Path(log.name)

    def reason(self) -> str:
        """Why the child failed: the last line that it printed, or the signal that ended it."""
        if self.returncode < 0:
            return f"ended by {signal.Signals(-self.returncode).name}"
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), _PROMPT)
        return f"ended with status {self.returncode}" if last.startswith(_PROMPT) else last


def start(
    command: Sequence[str], workdir: Path, environment: Mapping[str, str] | None = None
) -> Child | None:
    """Runs `command`, which trains in `workdir`, in the background.

    Returns None while an earlier child is in the workdir. `environment` adds to this process's.
    """
    storage.make_folder(workdir)
    with (workdir / LOG).open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:  # a file system without locks: the run's own lock has to do
            pass
        log.write(f"{_PROMPT}{shlex.join(command)}\n".encode())
        log.flush()
        return Child(command, log, environment or {})


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
