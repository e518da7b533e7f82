"""Runs Python programs in processes that have imported jax and whatever else takes a second.

A server, this file as a program, imports it once. It starts no backend, so that it can fork: each
child becomes `__main__` of one program, in the caller's environment and folder. What jax reads from
the environment while it is imported (JAX_…) is the server's: such programs need a real process.
"""

import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

_IMPORTED = ("transformer_jax.training.run", "transformer_jax.inference.evaluate", "sacrebleu")
_PATIENCE = 300  # seconds


def run(program, *arguments, environment, cwd, text=""):
    """As subprocess.run, with captured text, of a Python file; or of code in several lines."""
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdin", "stdout", "stderr")]
        streams[0].write_text(text, encoding="utf-8")
        command = [str(program), *map(str, arguments)]
        server, _ = _server()
        request = [command, dict(environment), str(cwd), list(map(str, streams))]
        server.write(json.dumps(request) + "\n")
        server.flush()
        child = int(server.readline())
        try:
            status = int(server.readline())
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            _server.cache_clear()
            raise
        outputs = [path.read_text(encoding="utf-8") for path in streams[1:]]
    return subprocess.CompletedProcess(command, status, *outputs)


@functools.cache
def _server():
    """A stream to the server, and its process, which ends with this one."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # or it would be that of a terminal, and have lines flushed
        pass_fds=[theirs.fileno()],
    )
    theirs.close()
    ours.settimeout(_PATIENCE)
    return ours.makefile("rw", encoding="utf-8"), process


def _serve(client):
    """Answers each request with a process's number and its status; returns one in each child."""
    for line in client:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            child = os.fork()  # beside the idle threads of a library for linear algebra
        if not child:
            return json.loads(line)
        client.write(f"{child}\n")
        client.flush()
        _, status = os.waitpid(child, 0)
        client.write(f"{os.waitstatus_to_exitcode(status)}\n")
        client.flush()
    sys.exit()


def _become(command, environment, cwd, streams):
    """Runs a program in this process."""
    for number, path in enumerate(streams):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in paths if path and path not in sys.path]
    os.chdir(cwd)
    program, *sys.argv[1:] = command
    if "\n" in program:
        sys.argv[0] = "-c"
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv[0] = program
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    for name in _IMPORTED:
        importlib.import_module(name)
    sys.modules["transformer_jax.data.normalization"].rules()  # takes a new tokenizer 0.2 s
    gc.freeze()  # what is shared with the children is not collected in each
    gc.set_threshold(100_000, 20, 100)  # as conftest.py does
    connection = socket.socket(fileno=int(sys.argv[1]))
    with connection, connection.makefile("rw", encoding="utf-8") as client:
        found = _serve(client)
    _become(*found)
