"""What every test shares."""

import fcntl
import gc
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings
from launching import FLAGS, launch

from transformer_jax.parallel import compilation_cache

# Before jax is imported. Nearly all of a tiny test's time is compiling, and this halves it; the
# subprocesses that tests start inherit both. JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Before ctranslate2 is. Where a CPU has no VNNI, its other int8 kernels overflow: see the README.
if platform.machine() == "x86_64":
    os.environ.setdefault("CT2_USE_MKL", "1")

# jax's traces are millions of objects, and Python would look for cycles among them again and again.
gc.set_threshold(100_000, 20, 100)

# Compiled programs, half of the tests' time, are kept apart from the user's, for all checkouts.
# They are some 450 MB: with a smaller bound, a run would remove what the next one needs.
user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
compilation_cache.use(f"{user}/transformer_jax_tests", most_bytes=2_000_000_000)

# Compiling in the first example takes longer than hypothesis thinks that one should.
settings.register_profile("default", max_examples=50, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None)
settings.register_profile("long", max_examples=10_000, deadline=None)
settings.load_profile("default")


# The files that take longest start first, so that no worker is left with one at the end.
LONGEST = (
    *("test_devices.py", "test_preemption.py", "test_page.py", "test_resume.py", "test_launch.py"),
    *("test_storage.py", "test_scorer.py", "test_translator.py", "test_runner.py"),
    *("test_sweeps.py", "test_search.py", "test_trained.py", "test_combinations.py"),
    *("test_output.py", "test_step.py", "test_checkpoints.py", "test_notebooks.py"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    # Much of a worker's time is waiting for processes.
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items):
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """What training left in a workdir, and what it printed. Not to be written to.

    The worker that first needs it trains it for all of them.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    workdir, printed = shared / "runs" / "tiny", shared / "tiny.json"
    with (shared / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not printed.exists():
            done = launch(f"--workdir={workdir}", *FLAGS, real=True)
            assert done.returncode == 0, done.stderr
            printed.write_text(json.dumps([done.args, 0, done.stdout, done.stderr]))
    return workdir, subprocess.CompletedProcess(*json.loads(printed.read_text()))


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of two megabytes; see launching.fill."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of it: a workdir can be moved."""
    return Path(shutil.copytree(trained[0], tmp_path / "moved"))
