"""One point's run: a child process, whose output is in the log.txt of its workdir.

The log is also what keeps a second child out of the workdir. It is locked, and the lock belongs to
the open file that is the child's standard output: it lasts exactly as long as the child lives, even
if the launcher that started it is killed.

Several points that train together are one child. It has all their logs open, which say how each
point ended; what it says of all of them is in the lanes_log.txt of the first.
"""

import contextlib
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
from transformer_jax.errors import PREEMPTED_STATUS

LOG = "log.txt"
LANES_LOG = "lanes_log.txt"
_FINISHED = "finished"  # a lane's last line; or else why it stopped, after "error: "
# Of launch.py after SIGTERM: it saved, and the same line goes on from there. Before it has taken
# the signal over, the signal ends it.
INTERRUPTED = (PREEMPTED_STATUS, -signal.SIGTERM)
_PR_SET_PDEATHSIG = 1


class Child:
    """A run that was started, and is waited for; or several in one process, by workdir."""

    def __init__(self, process: subprocess.Popen, output: Path, workdirs: Sequence[Path]) -> None:
        """`output` is what it writes to."""
        self._process, self._output = process, output
        self._since = dict.fromkeys(workdirs, time.monotonic())

    def status(self, workdir: Path) -> int | None:
        """Its exit status once it has ended, of a signal minus its number; None before.

        Of one run among several 0 if it got through, whatever became of the others.
        """
        status = self._process.poll()
        end = "" if status is None else self._end(workdir)
        return int(end != _FINISHED) if end else status

    def stop(self) -> None:
        """Asks it to save and end."""
        if self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Returns when it has ended."""
        self._process.wait()

    def lap(self, workdir: Path) -> float:
        """Seconds since it was started, or since this was last asked of that run.

        Of one run among several its share of them.
        """
        before, self._since[workdir] = self._since[workdir], time.monotonic()
        return (self._since[workdir] - before) / len(self._since)

    def reason(self, workdir: Path) -> str:
        """Why it failed: the last line that it wrote, or the signal that ended it."""
        end, status = self._end(workdir), self._process.returncode
        if status < 0 and not end:
            return f"ended by {signal.Signals(-status).name}"
        return end or _last_line(self._output) or f"ended with status {status}"

    def _end(self, workdir: Path) -> str:
        """What a run among several has said last of itself; "" while it has not."""
        line = _last_line(workdir / LOG) if len(self._since) > 1 else ""
        return line if line == _FINISHED or line.startswith("error: ") else ""


def note_end(workdir: Path, reason: str) -> None:
    """Says, in the process itself, that one of its runs has ended; "" = it got through."""
    with (workdir / LOG).open("a", encoding="utf-8") as log:
        log.write(f"error: {' '.join(reason.split())}\n" if reason else f"{_FINISHED}\n")


def start(command: Sequence[str], workdirs: Sequence[Path]) -> Child | None:
    """Runs `command` in the background; None while an earlier child still has a workdir.

    Args:
      command: trains in all of `workdirs`.
      workdirs: of one run, or of several that train together.

    Raises:
      UserError: if a workdir cannot be made.
    """
    with contextlib.ExitStack() as opened:
        logs = []
        for workdir in workdirs:
            storage.make_folder(workdir)
            log = opened.enter_context((workdir / LOG).open("ab"))
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            except OSError:  # a file system without locks: launch.py has its own
                pass
            logs.append(log)
        path = workdirs[0] / (LOG if len(workdirs) == 1 else LANES_LOG)
        output = logs[0] if len(workdirs) == 1 else opened.enter_context(path.open("ab"))
        for log in {id(log): log for log in (*logs, output)}.values():
            log.write(f"$ {shlex.join(command)}\n".encode())
            if log is not output:
                log.write(f"what it says is in ../{path.parent.name}/{path.name}\n".encode())
            log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[log.fileno() for log in logs],
            # Or its last lines would not be in the order in which they were written.
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            # Ctrl-C is for the launcher, which passes it on once.
            process_group=0,
            preexec_fn=_ends_with_launcher(),
        )
    return Child(process, path, workdirs)


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
