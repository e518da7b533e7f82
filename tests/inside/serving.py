"""The page's server in a thread of the tests."""

import contextlib
import http.client
import json
import threading
import time

import uvicorn

from transformer_jax.inside import server


@contextlib.contextmanager
def serving(answers):
    """The port at which `answers` are served."""
    listening = server.bind(0)
    running = uvicorn.Server(uvicorn.Config(server.app(answers), log_level="warning"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield listening.getsockname()[1]
    running.should_exit = True
    thread.join(20)


def ask(port, path="/api/inside", question=None, *, host=None, kind="application/json"):
    """(status, headers, body) of one request; a `question` is posted."""
    body = question if isinstance(question, bytes | None) else json.dumps(question).encode()
    headers = {"Host": host or f"127.0.0.1:{port}"}
    if body is not None:
        headers["Content-Type"] = kind
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        connection.request("GET" if body is None else "POST", path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
