"""Compiled programs are kept between starts, in the user's cache folder.

jax's persistent compilation cache, made safe to switch on for everybody: one folder for each kind
of host and version of jax, bounded, without entries that a killed process left half written. This
file does not import jax, which reads the environment set here.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

MOST_BYTES = 1_000_000_000
_FOLDER = "JAX_COMPILATION_CACHE_DIR"  # jax's variable
_EVERYTHING = {  # however small, and however fast it was compiled
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
_CHECKED, _VERDICT = "checked", "works"  # files of ours among the entries
_PROBE = """
import jax, jax.numpy as jnp
jax.jit(lambda x: jnp.tanh(x @ x).sum(axis=0))(jnp.ones((7, 7))).block_until_ready()
"""


def use(folder: str | None = None, *, most_bytes: int = MOST_BYTES) -> None:
    """Has jax keep what it compiles, in this process and those that it starts.

    To be called before jax is imported. jax's own variables come first: JAX_COMPILATION_CACHE_DIR
    names a folder that only jax looks after, and JAX_ENABLE_COMPILATION_CACHE=false switches the
    cache off. A folder that cannot be written, or a host that cannot read what it wrote, has no
    cache.

    Args:
      folder: of all hosts; None = transformer_jax in the user's cache folder.
      most_bytes: of the entries of all hosts; those used longest ago are removed beyond it.
    """
    # A torn entry, or one that another process is writing, is a miss.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    for name, value in _EVERYTHING.items():
        os.environ.setdefault(name, value)
    off = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "true").lower() in ("false", "0")
    if _FOLDER in os.environ or off:
        return
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        own = (Path(folder) if folder else user / "transformer_jax") / host_kind()
        own.mkdir(parents=True, exist_ok=True)
        _tidy(own, most_bytes)
        works = _works(own)
    except (OSError, RuntimeError):  # nor is there a home folder
        return
    if works:
        os.environ[_FOLDER] = str(own)


def host_kind() -> str:
    """What decides an entry besides the program: the CPU, jax's version, and how it compresses."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor()]
    kinds = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib")]
    compression = "zstd" if importlib.util.find_spec("zstandard") else "zlib"
    host = "\n".join([platform.machine(), *sorted(kinds), *versions, compression])
    return f"jax-{versions[0]}-{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def _works(folder: Path) -> bool:
    """Whether this host reads what it wrote, asked once: some reject every entry, noisily."""
    verdict = folder / _VERDICT
    known = verdict.read_text() if verdict.exists() else ""
    if known not in ("yes", "no"):  # empty, if a process was killed while it wrote
        with tempfile.TemporaryDirectory() as probed:
            environment = os.environ | {_FOLDER: probed, "JAX_PLATFORMS": "cpu"}
            command = [sys.executable, "-c", _PROBE]
            for _ in range(2):
                done = subprocess.run(command, env=environment, capture_output=True)
            good = done.returncode == 0 and not done.stderr and any(Path(probed).iterdir())
        known = "yes" if good else "no"
        verdict.write_text(known)
    return known == "yes"


def _tidy(folder: Path, most_bytes: int) -> None:
    """Removes entries that were written since the last call and are torn, and the oldest of all."""
    stamp, now = folder / _CHECKED, time.time()
    checked = stamp.stat().st_mtime if stamp.exists() else 0
    kept, entries = 0, []
    for path in folder.parent.glob("*/*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another start removed it
            status = path.stat()
            new = path.parent == folder and status.st_mtime >= checked
            if new and _torn(path.read_bytes()):
                path.unlink()
            else:
                entries.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    for _, size, path in sorted(entries, reverse=True):
        kept += size
        if kept > most_bytes:
            path.unlink(missing_ok=True)
    stamp.touch()
    os.utime(stamp, (now, now))  # an entry that was being written is checked again


def _torn(entry: bytes) -> bool:
    decompress = _unzstd if entry.startswith(b"\x28\xb5\x2f\xfd") else zlib.decompress
    try:
        decompress(entry)
    except ImportError:
        return False
    except Exception:  # each library has its own
        return True
    return False


def _unzstd(entry: bytes) -> bytes:
    """Decompresses with the library that jax uses, too, if one is installed."""
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        import zstandard

        return zstandard.ZstdDecompressor().decompress(entry)
    return zstd.decompress(entry)
