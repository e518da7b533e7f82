"""Where the tests keep compiled programs, which would otherwise take half of their time.

The folder is one of the user's cache, kept between runs and shared by all checkouts. Its name has
everything besides the program that decides the machine code: the CPU and jax's version.
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_LARGEST = 400_000_000  # bytes
_PROBE = """
import jax, jax.numpy as jnp
jax.jit(lambda x: jnp.tanh(x @ x).sum(axis=0))(jnp.ones((7, 7))).block_until_ready()
"""


def use_cache():
    """Has jax keep what it compiles, in this process and those that it starts.

    To be called before jax is imported. A JAX_COMPILATION_CACHE_DIR of the user's is left as it is.
    """
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(user) / "transformer_jax_tests" / _host()
    folder.mkdir(parents=True, exist_ok=True)
    if _works(folder):
        _make_room(folder)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def own_cache(folder):
    """Variables for processes that get killed, perhaps while they write an entry of the cache."""
    shared = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not shared:
        return {}
    copy = folder / "compiled"
    if not copy.exists():
        shutil.copytree(shared, copy, copy_function=os.symlink)  # no entry is ever rewritten
    return {"JAX_COMPILATION_CACHE_DIR": str(copy)}


def _host():
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    kinds = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib")]
    host = "\n".join([platform.machine(), *sorted(kinds), *versions])
    return f"jax-{versions[0]}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def _works(folder):
    """Whether this host reads what it wrote: some reject every entry, noisily (jax#38445)."""
    verdict = folder / "works"
    if not verdict.exists():
        with tempfile.TemporaryDirectory() as probed:
            command = [sys.executable, "-c", _PROBE]
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": probed, "JAX_PLATFORMS": "cpu"}
            for _ in range(2):
                done = subprocess.run(command, env=environment, capture_output=True)
            good = done.returncode == 0 and not done.stderr and any(Path(probed).iterdir())
        verdict.write_text("yes" if good else "no")
    return verdict.read_text() == "yes"


def _make_room(folder):
    """Removes the oldest entries beyond the limit, and those that a killed process left empty."""
    entries = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*-cache")]
    kept = 0
    for _, size, path in sorted(entries, reverse=True):
        kept += size
        if kept > _LARGEST or not size:
            path.unlink(missing_ok=True)
