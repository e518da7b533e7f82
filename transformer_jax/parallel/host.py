"""Processes of this machine, and signals. This imports no jax: a launcher of many runs needs it."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def alive(pid: int) -> bool:
    """Whether there is a process of that number."""
    if pid <= 0:  # to `kill` these mean groups of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def host_id() -> str:
    """Where process numbers mean the same: containers may have their machine's name, not these."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def boot_id() -> str:
    """The same in all containers of a machine, until it is started anew; "" if it has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return ""


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP act as Ctrl-C, so that `finally` is met.

    But not if they are ignored: nohup ignores SIGHUP.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] == signal.SIG_DFL:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
