"""SIGTERM and SIGINT: a run saves what it has and exits with status 75 before its time is up.

A cloud sends SIGTERM some seconds before it takes a machine back; a person presses Ctrl-C. During
the steps, the current step is finished and saved. In every other phase the last checkpoint has
everything, and the run stops at once. A second signal ends the process immediately.

Several processes have to save the same step. There jax listens for SIGTERM: it notifies all of
them and agrees on the step, and SIGINT is passed on as SIGTERM. Outside the steps they cannot stop
one by one; the scheduler's SIGKILL ends them, which loses nothing that was saved.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from jax.experimental import multihost_utils

from transformer_jax.errors import PREEMPTED_STATUS, Preempted
from transformer_jax.parallel import processes


class _Request:
    """Whether a signal has asked this process to stop, and whether it may stop right here."""

    received = False
    deferred = False


_request = _Request()


@contextlib.contextmanager
def handled(grace_seconds: float) -> Iterator[None]:
    """Within the block, in the main thread, the signals ask for an orderly end.

    Args:
      grace_seconds: the process has exited that long after a signal, whatever it is doing:
        compiling and tokenizing are calls that Python cannot interrupt.
    """
    _request.received = _request.deferred = False
    if processes.joined():
        handlers = {signal.SIGINT: _pass_on}
    else:
        handlers = {signal.SIGINT: _on_signal, signal.SIGTERM: _on_signal}
    # Python runs a handler once its main thread is free, but writes to this socket at once.
    sender, receiver = socket.socketpair()
    sender.setblocking(False)
    watch = threading.Thread(target=_watch, args=(receiver, grace_seconds), daemon=True)
    watch.start()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(sender.fileno())
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        sender.close()  # ends the watch
        watch.join()
        _request.received = False


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within the block a signal raises nothing; the caller checks `requested`.

    Raises:
      Preempted: at the end of the block, if a signal came and `requested` did not see it.
    """
    with _deferring(True):
        yield
    _raise_if_requested()


@contextlib.contextmanager
def immediate() -> Iterator[None]:
    """Within the block, inside of `deferred`, a signal raises Preempted again."""
    with _deferring(False):
        _raise_if_requested()
        yield
        # An exception within a destructor or a garbage collector's callback is only printed.
        _raise_if_requested()


def requested(step: int) -> bool:
    """Whether to save this step and stop. Several processes all ask at each step, and agree."""
    if processes.joined():
        return multihost_utils.reached_preemption_sync_point(step)
    return _request.received


@contextlib.contextmanager
def _deferring(value: bool) -> Iterator[None]:
    before, _request.deferred = _request.deferred, value
    try:
        yield
    finally:
        _request.deferred = before


def _raise_if_requested() -> None:
    if _request.received and not _request.deferred and not processes.joined():
        raise Preempted("the last checkpoint has everything")


def _on_signal(number: int, frame: FrameType | None) -> None:
    _request.received = True
    _raise_if_requested()


def _pass_on(number: int, frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _watch(signals: socket.socket, grace_seconds: float) -> None:
    """Reads a byte for each signal; at the second one, or when time is up, ends the process."""
    with signals:
        first = signals.recv(1)
        if not first:
            return
        name = signal.Signals(first[0]).name
        _print(f"{name}: stopping within {grace_seconds:g} s; a second signal stops immediately")
        signals.settimeout(grace_seconds)
        try:
            if not signals.recv(1):
                return  # the run stopped in time
            _print("stopped immediately; the last checkpoint is kept")
        except TimeoutError:
            _print(f"not done within {grace_seconds:g} s; the last checkpoint is kept")
        os._exit(PREEMPTED_STATUS)


def _print(line: str) -> None:
    print(f"\n{line}", file=sys.stderr, flush=True)
