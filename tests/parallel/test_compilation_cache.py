"""The cache of compiled programs: on by default, bounded, and safe to kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from transformer_jax.parallel import compilation_cache

PROGRAM = """
from transformer_jax.parallel import compilation_cache
compilation_cache.use()
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
for width in range(2, 9):
    jax.jit(lambda x: jnp.tanh(x @ x).sum(axis=0))(jnp.ones((width, width))).block_until_ready()
print(hits.count("/jax/compilation_cache/cache_hits"))
"""
JAX_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def environment(home, **variables):
    kept = {name: value for name, value in os.environ.items() if name not in JAX_VARIABLES}
    return kept | {"XDG_CACHE_HOME": str(home), "JAX_PLATFORMS": "cpu"} | variables


def start(home, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment(home, **variables), text=True,
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def hits(home, **variables):
    """The programs that one process, which logs nothing, finds in the cache."""
    output, errors = start(home, **variables).communicate(timeout=300)
    assert errors == ""
    return int(output)


def entries(home):
    return sorted(home.rglob("*-cache"))


def test_a_second_start_compiles_nothing(tmp_path):
    assert hits(tmp_path) == 0
    written = entries(tmp_path)
    assert len(written) >= 7
    assert hits(tmp_path) >= 7
    assert entries(tmp_path) == written


# Of each mode that compiles for this machine, whether it has imported jax when it starts the cache.
MODES = """
import sys
from pathlib import Path
from transformer_jax.modes import command_line
from transformer_jax.parallel import compilation_cache
class Started(Exception):
    pass
def use():
    raise Started
compilation_cache.use = use
for mode in sys.argv[1:]:
    line = ["launch.py", f"--mode={mode}", *["--step=1"] * (mode == "replay")]
    try:
        command_line.run(line, Path("experiments/quickstart.py"))
    except Started:
        print(mode, "jax" in sys.modules)
"""


def test_every_mode_starts_the_cache_before_it_imports_jax():
    modes = ["train", "translate", "evaluate", "score", "replay", "inside"]
    done = subprocess.run(
        [sys.executable, "-c", MODES, *modes],
        cwd=Path(__file__).parents[2], text=True, capture_output=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"{mode} False" for mode in modes], done.stderr


def test_a_torn_entry_is_a_miss_without_noise_and_is_written_again(tmp_path):
    hits(tmp_path)
    whole = {path: path.read_bytes() for path in entries(tmp_path)}
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2])
    assert hits(tmp_path) == 0
    assert hits(tmp_path) >= 7
    assert entries(tmp_path) == list(whole)


def test_a_torn_entry_in_a_folder_of_the_user_is_a_miss_without_noise(tmp_path):
    mine = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine")}
    hits(tmp_path, **mine)
    for path in entries(tmp_path):
        path.write_bytes(path.read_bytes()[:-9])
    assert hits(tmp_path, **mine) == 0


def test_an_entry_that_another_start_removes_meanwhile_is_no_reason_for_no_cache(
    tmp_path, monkeypatch
):
    for name in JAX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / compilation_cache.host_kind()
    folder.mkdir()
    (folder / "works").write_text("yes")
    (folder / "gone-cache").symlink_to(tmp_path / "nowhere")
    compilation_cache.use(str(tmp_path))
    assert os.environ.pop("JAX_COMPILATION_CACHE_DIR") == str(folder)


def test_a_verdict_that_was_not_written_whole_is_asked_for_again(tmp_path):
    hits(tmp_path)
    (verdict,) = tmp_path.rglob("works")
    verdict.write_text("")
    assert hits(tmp_path) >= 7
    assert verdict.read_text() == "yes"


# Half of the first entry is written, and then nothing more happens.
HALF = """
def half(self, content):
    with self.open("wb") as file:
        file.write(content[: len(content) // 2])
    print("half", flush=True)
    time.sleep(600)
import time
from jax._src import path
type(path.Path("a")).write_bytes = half
"""


@pytest.mark.slow
def test_a_process_that_is_killed_half_way_through_an_entry(tmp_path):
    code = PROGRAM.replace("hits = []", HALF + "hits = []")
    command = [sys.executable, "-c", code]
    options = {"env": environment(tmp_path), "cwd": Path(__file__).parents[2], "text": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as writer:
        assert writer.stdout.readline() == "half\n"
        ((torn,), size) = entries(tmp_path), entries(tmp_path)[0].stat().st_size
        assert hits(tmp_path) == 0, "while it is being written"
        writer.kill()
    assert torn.stat().st_size > size
    assert hits(tmp_path) >= 7


@pytest.mark.parametrize(
    "variables",
    [{"JAX_ENABLE_COMPILATION_CACHE": "false"}, {"XDG_CACHE_HOME": "/proc/nowhere"}],
    ids=["off", "a folder that cannot be written"],
)
def test_no_cache(tmp_path, variables):
    assert hits(tmp_path, **variables) == 0
    assert entries(tmp_path) == []


def test_a_folder_of_the_user(tmp_path):
    assert hits(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine")) == 0
    assert {path.parent for path in entries(tmp_path)} == {tmp_path / "mine"}


def test_the_entries_used_longest_ago_make_room(tmp_path, monkeypatch):
    for name in JAX_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / compilation_cache.host_kind()
    folder.mkdir()
    (folder / "works").write_text("yes")
    content = compilation_cache.zlib.compress(os.urandom(1000))
    another = tmp_path / "jax-0-another"  # version of jax, or kind of host
    another.mkdir()
    for number in range(7):
        path = (folder if number % 2 else another) / f"{number}-cache"
        path.write_bytes(content)
        os.utime(path, (number, number))
    compilation_cache.use(str(tmp_path), most_bytes=3 * len(content))
    kept = sorted(path.name for path in entries(tmp_path))
    assert kept == ["4-cache", "5-cache", "6-cache"]
    assert os.environ.pop("JAX_COMPILATION_CACHE_DIR") == str(folder)
