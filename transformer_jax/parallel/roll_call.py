"""Waits until all processes of a run have started, before jax joins them.

Where processes are missing, or disagree about their numbers, jax aborts; this raises. Process 0
listens at the address that it gives to jax afterwards. Each other process sends it a line, "hello",
its number and the number of all, and waits for the answer: "go", or "error: " and the reason.
"""

import contextlib
import re
import socket
import time

from transformer_jax.errors import UserError, one_line
from transformer_jax.parallel.peers import Peers

_READ_SECONDS = 5.0  # for the line of one that has connected
_RETRY_SECONDS = 0.3
_GO = "go"


def roll_call(peers: Peers, *, wait_seconds: float) -> None:
    """Returns once all processes are there.

    Raises:
      UserError: in those that are, if one is missing after `wait_seconds`, comes twice, or expects
        another number of processes.
    """
    deadline = time.monotonic() + wait_seconds
    within = f"within --wait_seconds={wait_seconds:g} (from {peers.origin}: {peers.remedy})"
    if peers.index == 0:
        _call(peers, deadline, within)
    else:
        _answer(peers, deadline, within)


def _call(peers: Peers, deadline: float, within: str) -> None:
    """As process 0, waits for the others."""
    _, port = peers.address
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except (OSError, OverflowError) as e:
        raise UserError(f"process 0 cannot listen at {peers.coordinator}: {one_line(e)}") from None
    with listener, contextlib.ExitStack() as open_until_the_end:
        present: dict[int, socket.socket] = {}
        while missing := sorted(set(range(1, peers.number)) - present.keys()):
            left = deadline - time.monotonic()
            if left <= 0:
                names = ", ".join(map(str, missing[:8])) + (", …" if missing[8:] else "")
                who = f"process{'es' if missing[1:] else ''} {names} of {peers.number}"
                late = f"{who} did not connect to {peers.coordinator}"
                for connection in present.values():
                    _send(connection, f"error: {late} {within}")
                raise UserError(f"{late} {within}")
            listener.settimeout(min(left, _RETRY_SECONDS))
            with contextlib.suppress(TimeoutError):
                connection = open_until_the_end.enter_context(listener.accept()[0])
                _admit(connection, present, peers)
            # One that has ended meanwhile may start again.
            present = {index: each for index, each in present.items() if _is_open(each)}
        for connection in present.values():
            _send(connection, _GO)


def _admit(connection: socket.socket, present: dict[int, socket.socket], peers: Peers) -> None:
    """Adds one that has connected to those present, or answers why not."""
    connection.settimeout(_READ_SECONDS)
    try:
        line = connection.makefile(encoding="utf-8", errors="replace").readline(80)
    except OSError:
        return
    connection.setblocking(False)
    hello = re.fullmatch(r"hello (\d+) of (\d+)\n", line)
    if not hello:  # another program
        return
    index, number = map(int, hello.groups())
    if number != peers.number:
        _send(connection, f"error: process {index} is one of {number}, process 0 of {peers.number}")
    elif index in present:
        _send(connection, f"error: there are two processes with the number {index}")
    else:
        present[index] = connection


def _answer(peers: Peers, deadline: float, within: str) -> None:
    """As another process, goes to process 0 and waits for the others."""
    problem = ""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(peers.address, timeout=left) as connection:
                connection.sendall(f"hello {peers.index} of {peers.number}\n".encode())
                problem = "not all processes connected to"
                line = connection.makefile(encoding="utf-8", errors="replace").readline(1000)
        except (OSError, OverflowError) as e:
            problem = problem or f"process 0 cannot be reached ({one_line(e)}) at"
            time.sleep(min(left, _RETRY_SECONDS))
            continue
        if line.strip() == _GO:
            return
        if line.startswith("error: "):
            raise UserError(line.removeprefix("error: ").strip())
        problem = "there is no process 0 at"
        time.sleep(min(left, _RETRY_SECONDS))
    raise UserError(f"{problem} {peers.coordinator} {within}")


def _send(connection: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(f"{line}\n".encode())


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side has not closed it; it sends nothing after its first line."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
