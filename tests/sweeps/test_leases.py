"""Leases: one launcher holds a point, until it releases it or dies."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy
from sweeping import trials

from transformer_jax.parallel.host import host_id
from transformer_jax.sweeps.leases import Leases


@pytest.fixture
def leasing(tmp_path):
    """Makes the leases of another launcher, in one database."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/leases.db")
    return lambda **launcher: Leases(engine, "run", **launcher)


@pytest.fixture
def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_lease_is_one_launchers_until_it_is_released(leasing):
    first, second = leasing(), leasing()
    assert first.take("a") and second.take("b")
    assert not second.take("a") and not first.take("a")
    assert first.living() == second.living() == {"a", "b"}
    second.release("a")  # not its own
    assert not second.take("a")
    first.release("a")
    assert second.take("a")


def test_a_dead_launchers_lease_is_free_at_once_on_its_machine(leasing, gone):
    dead, living = leasing(pid=gone), leasing()
    assert dead.take("a")
    assert living.living() == set()
    assert living.take("a")
    assert dead.beat(["a"]) == ["a"], "were it alive, it would learn that its lease is lost"
    assert living.beat(["a"]) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such namespaces")
def test_a_container_with_this_machines_name_is_elsewhere(leasing, gone):
    name, space = host_id().split()
    assert (name, space[:5]) == (socket.gethostname(), "pid:[")
    assert leasing(host=f"{name} {space}7", pid=gone).take("a")
    assert not leasing().take("a"), "a process number of another namespace means nothing here"


def test_elsewhere_it_is_free_after_a_minute_without_a_beat(leasing):
    now = 1000.0
    there, here = leasing(host="there"), leasing(clock=lambda: now)
    assert there.take("a") and not here.take("a")
    for _ in range(9):
        now += 50
        there.beat(["a"])
        assert not here.take("a")
    now += 59
    assert not here.take("a")
    now += 2
    assert here.take("a")
    assert there.beat(["a"]) == ["a"]


def test_of_two_that_find_a_lease_dead_one_takes_it(leasing):
    """Both have read the dead launcher's row before either writes."""
    now, taken = 1000.0, []

    def clock():
        if now > 1000:  # asked after the row was read
            taken.append(first.take("a"))
        return now

    first, second = leasing(clock=lambda: now), leasing(clock=clock)
    assert leasing(host="there").take("a")
    assert not first.take("a") and not second.take("a")
    now += 61
    assert not second.take("a")
    assert taken == [True]
    assert first.beat(["a"]) == []


RACE = """
import sys, time
from transformer_jax.sweeps import study
opened = study.Study("sqlite:///race.db", "run")
while time.time() < float(sys.argv[1]):
    pass
opened.enqueue([(f"p{n}", {}) for n in range(13)])
print(*(point.name for point in opened.points() if opened.claim(point)), flush=True)
sys.stdin.read()  # a process that is gone has no leases
"""


def test_of_several_that_claim_a_point_at_once_one_gets_it(folder):
    Path("race.py").write_text(RACE)
    command = [sys.executable, "race.py", str(time.time() + 3)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    claimed = [name for racer in racers for name in racer.stdout.readline().split()]
    for racer in racers:
        racer.communicate()
    names = sorted(f"p{n}" for n in range(13))
    assert sorted(claimed) == names
    found = trials("sqlite:///race.db")
    assert sorted(found) == names and {len(of_point) for of_point in found.values()} == {1}
