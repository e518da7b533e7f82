"""Children of a launcher: one per workdir, and none outlives its launcher."""

import subprocess
import sys

import pytest
from launching import ROOT
from sweeping import wait_for

from transformer_jax.sweeps import child


def test_a_second_child_is_not_started_while_the_first_lives(tmp_path):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    first = child.start(sleep, tmp_path / "a")
    assert child.start(sleep, tmp_path / "a") is None
    assert first.poll() is None
    first.terminate()
    first.wait()
    assert first.poll() in child.INTERRUPTED
    second = child.start([sys.executable, "-c", "print(1/0)"], tmp_path / "a")
    second.wait()
    assert second.poll() == 1
    assert second.reason() == "ZeroDivisionError: division by zero"
    third = child.start(
        [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], tmp_path / "a"
    )
    third.wait()
    assert third.reason() == "ended by SIGKILL"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock has to do")
def test_children_end_with_their_launcher(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from transformer_jax.sweeps import child\n"
        "child.start([sys.executable, '-c', 'import time; time.sleep(600)'], Path(sys.argv[1]))\n"
        "print('started', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a")]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert launcher.stdout.readline() == "started\n"
    assert child.start(["true"], tmp_path / "a") is None
    launcher.kill()
    launcher.communicate()
    wait_for(lambda: child.start(["true"], tmp_path / "a") is not None)
