"""Leases: one launcher has a point, until it gives it back or is dead."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from sweeping import database


def leasing(tmp_path, **me):
    """Leases of a process; `me` makes it another one."""
    opened = database(tmp_path)._leases
    opened._me |= me
    return opened


def test_a_lease_is_one_launchers_until_it_is_given_back(tmp_path):
    first, second = leasing(tmp_path), leasing(tmp_path)
    assert first.take("a")
    assert not second.take("a")
    assert not first.take("a")
    assert second.take("b")
    assert first.living() == second.living() == {"a", "b"}
    second.release("a")  # not its own
    assert not second.take("a")
    first.release("a")
    assert second.take("a")


def test_a_dead_launchers_lease_is_free_at_once_on_its_machine(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead, living = leasing(tmp_path, pid=gone.pid), leasing(tmp_path)
    assert dead.take("a")
    assert living.living() == set()
    assert living.take("a")
    assert dead.beat(["a"]) == ["a"], "it was not dead, and learns that its lease is lost"
    assert living.beat(["a"]) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such namespaces")
def test_a_container_with_this_machines_name_is_elsewhere(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    here, there = leasing(tmp_path), leasing(tmp_path, pid=gone.pid)
    name, space = here._me["host"].split()
    assert (name, space[:5]) == (socket.gethostname(), "pid:[")
    there._me["host"] = f"{name} {space}7"  # its process numbers say nothing here
    assert there.take("a")
    assert not here.take("a")


def test_elsewhere_it_is_free_after_a_minute_without_a_beat(tmp_path, monkeypatch):
    there, here = leasing(tmp_path, host="there"), leasing(tmp_path)
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert there.take("a")
    assert not here.take("a")
    for _ in range(9):
        now += 50
        there.beat(["a"])
        assert not here.take("a")
    now += 59
    assert not here.take("a")
    now += 2
    assert here.take("a")
    assert there.beat(["a"]) == ["a"]


def test_of_two_that_find_a_lease_dead_one_takes_it(tmp_path, monkeypatch):
    """Both have read the dead one's row before either writes."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = leasing(tmp_path, pid=gone.pid)
    assert dead.take("a")
    first, second = leasing(tmp_path, owner="first"), leasing(tmp_path, owner="second")
    before = second._rows()
    assert first.take("a")
    monkeypatch.setattr(second, "_rows", lambda: before)
    assert not second.take("a")
    assert first.beat(["a"]) == []


RACE = """
import sys, time
from pathlib import Path
from transformer_jax.sweeps import study
opened = study.Study(study.sqlite_url(Path("race.db")), "run")
while time.time() < float(sys.argv[1]):
    pass
opened.enqueue([(f"p{n}", {}) for n in range(13)])
print(*(point.name for point in opened.points() if opened.claim(point)), flush=True)
sys.stdin.read()  # a process that is gone has no leases
"""


def test_of_several_that_claim_a_point_at_once_one_gets_it(folder):
    Path("race.py").write_text(RACE)
    at = str(time.time() + 3)
    command = [sys.executable, "race.py", at]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    claimed = [name for racer in racers for name in racer.stdout.readline().split()]
    for racer in racers:
        racer.communicate()
    assert sorted(claimed) == sorted(f"p{n}" for n in range(13))
    names = [t.user_attrs["point"]["name"] for t in _trials_of("race.db")]
    assert sorted(names) == sorted(f"p{n}" for n in range(13)), "added more than once"


def _trials_of(name):
    return optuna.load_study(study_name="run", storage=f"sqlite:///{name}").trials
