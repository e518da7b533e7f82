"""SIGTERM and SIGINT: save what there is, say so, and leave with status 75 before time is up.

A cloud that takes a machine back sends SIGTERM some seconds before; a person presses Ctrl-C. While
steps are being trained the step is finished and saved. In every other phase there is nothing that
the last checkpoint lacks, and the run stops where it stands. A second signal ends it at once.

Several processes have to save the same step. There jax listens for SIGTERM: it tells all of them,
and finds the step; SIGINT is passed on as SIGTERM. Outside of the steps they cannot stop one by
one, and the scheduler's SIGKILL ends them, which loses nothing that was saved.
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
    """What is asked of this process, and whether it may stop right here."""

    def __init__(self) -> None:
        self.name = ""
        self.deferred = False


_request: _Request | None = None
_NOTHING_NEW = "the last checkpoint has all there was to save"


@contextlib.contextmanager
def handled(grace_seconds: float) -> Iterator[None]:
    """Within the block, in the main thread, the signals ask for an orderly end.

    Args:
      grace_seconds: after a signal, the process is gone by then, whatever it is doing: compiling
        and tokenizing are calls that Python cannot interrupt.
    """
    global _request
    _request = _Request()
    if processes.joined():
        signals, handler = [signal.SIGINT], _pass_on
    else:
        signals, handler = [signal.SIGINT, signal.SIGTERM], _on_signal
    # Python's own handlers wait for its main thread to be free; what a signal writes here does not.
    there, here = socket.socketpair()
    there.setblocking(False)
    watch = threading.Thread(target=_watch, args=(here, grace_seconds), daemon=True)
    watch.start()
    before = {number: signal.signal(number, handler) for number in signals}
    wakeup = signal.set_wakeup_fd(there.fileno())
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, old in before.items():
            signal.signal(number, old)
        there.close()  # ends the watch, once it has told of the signal
        watch.join()
        _request = None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within the block a signal raises nothing: whoever runs it asks `requested`.

    Raises:
      Preempted: at the end of the block, if a signal came and nobody had asked.
    """
    with _deferred(True):
        yield
    # One that comes now raises by itself again.
    if _request and not _request.deferred:
        _raise_if_requested()


@contextlib.contextmanager
def immediate() -> Iterator[None]:
    """Within the block, inside of `deferred`, a signal raises Preempted again."""
    with _deferred(False):
        _raise_if_requested()
        yield
        # What is raised within a destructor, or a callback of the garbage collector, is only shown.
        _raise_if_requested()


def _raise_if_requested() -> None:
    if _request and _request.name and not processes.joined():
        raise Preempted(_NOTHING_NEW)


def requested(step: int) -> bool:
    """Whether to save this step and stop. Several processes all ask at each step, and agree."""
    if processes.joined():
        return multihost_utils.reached_preemption_sync_point(step)
    return _request is not None and bool(_request.name)


@contextlib.contextmanager
def _deferred(value: bool) -> Iterator[None]:
    if _request is None:
        yield
        return
    before, _request.deferred = _request.deferred, value
    try:
        yield
    finally:
        if _request is not None:
            _request.deferred = before


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _request is None:
        return
    _request.name = signal.Signals(number).name
    if not _request.deferred:
        raise Preempted(_NOTHING_NEW)


def _pass_on(number: int, frame: FrameType | None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _watch(signals: socket.socket, grace_seconds: float) -> None:
    """Reads a byte for each signal; at the second one, or when time is up, ends the process."""
    first = signals.recv(1)
    if not first:
        return
    name = signal.Signals(first[0]).name
    _say(f"{name}: stopping within {grace_seconds:g} s; a second one stops at once")
    signals.settimeout(grace_seconds)
    try:
        if not signals.recv(1):
            return  # it stopped in good order
        _say("stopped at once; the last checkpoint is what there is")
    except TimeoutError:
        _say(f"not done within {grace_seconds:g} s; the last checkpoint is what there is")
    os._exit(PREEMPTED_STATUS)


def _say(line: str) -> None:
    print(f"\n{line}", file=sys.stderr, flush=True)
