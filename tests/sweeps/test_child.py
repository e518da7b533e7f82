"""Children of a launcher: one in a workdir, and none without its launcher."""

import subprocess
import sys
import time

import pytest
from launching import ROOT
from sweeping import wait_for

from transformer_jax.sweeps import child


def test_a_second_child_is_not_started_while_the_first_lives(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    first = child.start(sleep, [tmp_path / "a"])
    assert child.start(sleep, [tmp_path / "a"]) is None
    assert first.status(tmp_path / "a") is None
    first.stop()
    first.wait()
    assert first.status(tmp_path / "a") in child.INTERRUPTED
    second = child.start([sys.executable, "-c", "print(1/0)"], [tmp_path / "a"])
    second.wait()
    assert second.status(tmp_path / "a") == 1
    assert second.reason(tmp_path / "a") == "ZeroDivisionError: division by zero"
    third = child.start(
        [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], [tmp_path / "a"]
    )
    third.wait()
    assert third.reason(tmp_path / "a") == "ended by SIGKILL"


def test_a_child_of_several_points_has_all_their_workdirs(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    script = (
        "import sys; from pathlib import Path; from transformer_jax.sweeps import child\n"
        "child.note_end(Path(sys.argv[1]), ''); child.note_end(Path(sys.argv[2]), 'it\\nrose')\n"
        "print('of all'); sys.stdin.read(); sys.exit('error: no more')\n"
    )
    line = [sys.executable, "-c", script, str(a), str(b)]
    several = child.start(line, [a, b, c])
    assert all(child.start(["true"], [c, d]) is None for d in (a, b, tmp_path / "d"))
    assert child.start(["true"], [tmp_path / "d"]) is not None, "it was given back"
    several.wait()
    assert [several.status(d) for d in (a, b, c)] == [0, 1, 1]
    assert [several.reason(d) for d in (b, c)] == ["error: it rose", "error: no more"]
    assert (c / child.LOG).read_text().endswith("\nwhat it says is in ../a/lanes_log.txt\n")
    again = child.start(["true"], [a, b])
    again.wait()
    assert (again.status(a), again.status(b)) == (0, 0), "what was said before is over"


def test_of_several_runs_each_has_its_share_of_the_seconds(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    several = child.start(["true"], [tmp_path / "a", tmp_path / "b"])
    now += 30
    assert several.lap(tmp_path / "a") == 15
    now += 10
    assert [several.lap(tmp_path / name) for name in "ab"] == [5, 20]
    several.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock alone has to do")
def test_children_end_with_their_launcher(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from transformer_jax.sweeps import child\n"
        "child.start([sys.executable, '-c', 'import time; time.sleep(600)'], [Path(sys.argv[1])])\n"
        "print('started', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert launcher.stdout.readline() == "started\n"
    assert child.start(["true"], [tmp_path / "a"]) is None
    launcher.kill()
    launcher.communicate()
    wait_for(lambda: child.start(["true"], [tmp_path / "a"]) is not None)
