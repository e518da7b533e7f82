"""Processes of this machine, and signals. Imports no jax: a sweep's launcher needs it early."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def alive(pid: int) -> bool:
    """Whether there is a process with that number."""
    if pid <= 0:  # to `kill` these mean groups of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process
        return True
    return True


def host_id() -> str:
    """Names the machine or container whose process numbers this process shares.

    A container may have its machine's name, but not its process numbers.
    """
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def boot_id() -> str:
    """Identifies the machine until it reboots, in all of its containers; "" where it is unknown."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return ""


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise KeyboardInterrupt, so that `finally` blocks run.

    A signal that is ignored stays ignored: nohup ignores SIGHUP.
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
