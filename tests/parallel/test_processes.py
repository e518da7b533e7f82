"""Several processes of the real launcher, each with devices of its own, on one machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from launching import FLAGS, ROOT, TINY, json_lines, launch, refusal

from transformer_jax.data.small_world import grammar
from transformer_jax.workdir import lock

LONG = [*FLAGS, "--config.train.steps=6", "--config.train.evaluate_every=0"]


def start(number, devices, *arguments):
    """`number` processes of one run, each with so many fake devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    join = [f"--coordinator=localhost:{port}", f"--num_processes={number}"]
    return [
        subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *arguments, *join, f"--process_id={i}"],
            cwd=ROOT,
            env=environment,
            encoding="utf-8",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(number)
    ]


def finish(processes, timeout=300):
    """[(exit status, stdout, stderr)] of each."""
    outputs = [process.communicate(timeout=timeout) for process in processes]
    return [(p.returncode, *o) for p, o in zip(processes, outputs, strict=True)]


def losses(workdir):
    rows = json_lines(workdir / "metrics.jsonl")
    return [row["train"]["loss"] for row in rows if "train" in row]


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory):
    """A run of two processes with two devices each, and what they printed."""
    workdir = tmp_path_factory.mktemp("runs") / "many"
    return workdir, finish(start(2, 2, f"--workdir={workdir}", *FLAGS))


@pytest.mark.slow
def test_a_mesh_over_two_processes(trained, tmp_path):
    workdir = tmp_path / "mesh"
    sizes = ["--config.parallel.fsdp=2", "--config.parallel.tensor=2"]
    done = finish(start(2, 2, f"--workdir={workdir}", *FLAGS, *sizes))
    assert [status for status, *_ in done] == [0, 0], done
    np.testing.assert_allclose(losses(workdir), losses(trained[0]), atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_what_one_does(two_by_two, trained):
    workdir, done = two_by_two
    assert [status for status, *_ in done] == [0, 0], done
    np.testing.assert_allclose(losses(workdir), losses(trained[0]), atol=1e-5)
    assert "4 cpu devices of 2 processes, pmap" in done[0][2]
    # One process logs and writes.
    assert "我有一只猫 → " in done[0][1] and "我有一只猫" not in done[1][1]
    assert "step 4/4" in done[0][2] and "step 4/4" not in done[1][2]
    assert len(json_lines(workdir / "metrics.jsonl")) == TINY["train.steps"] + 1
    for name in ("tokenizer.model", "training_data.sha256"):
        assert (workdir / name).read_bytes() == (trained[0] / name).read_bytes()
    one, two = (
        json.loads((folder / "evaluation/test/scores.json").read_text())
        for folder in (trained[0], workdir)
    )
    assert two["sentences"] == one["sentences"]
    assert two["chrf"] == pytest.approx(one["chrf"], abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 4), (4, 1)])
def test_a_run_resumes_on_other_processes_and_devices(
    two_by_two, trained, tmp_path, processes, devices
):
    """On one process with four devices, and on four with one; as on one device alone."""
    workdir, alone = tmp_path / "many", tmp_path / "one"
    shutil.copytree(two_by_two[0], workdir)
    shutil.copytree(trained[0], alone)
    assert launch(f"--workdir={alone}", *LONG).returncode == 0
    done = finish(start(processes, devices, f"--workdir={workdir}", *LONG))
    assert [status for status, *_ in done] == [0] * processes, done
    assert "resuming from step 4" in done[0][2]
    assert len(losses(workdir)) == 6
    np.testing.assert_allclose(losses(workdir), losses(alone), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "devices"), [(1, 3), (2, 2)])
def test_sentences_are_spread_and_come_back_in_order(trained, tmp_path, processes, devices):
    pairs = grammar.pairs("test", size=19)
    source, alone, spread = (tmp_path / name for name in ("source", "alone", "spread"))
    source.write_text("".join(f"{zh}\n" for zh, _ in pairs), encoding="utf-8")
    options = ["--mode=translate", f"--workdir={trained[0]}", f"--input={source}"]
    options += ["--config.decode.method=beam", "--n_best=2"]
    assert launch(*options, f"--output={alone}").returncode == 0
    done = finish(start(processes, devices, *options, f"--output={spread}"))
    assert [status for status, *_ in done] == [0] * processes, done
    lines, others = (path.read_text(encoding="utf-8").split("\n")[:-1] for path in (alone, spread))
    assert len({line.partition("\t")[2] for line in lines}) > 10, "or order would not show"
    for a, b in zip(lines, others, strict=True):
        (line_a, score_a, text_a), (line_b, score_b, text_b) = a.split("\t"), b.split("\t")
        assert (line_a, text_a) == (line_b, text_b)
        assert float(score_a) == pytest.approx(float(score_b), abs=2e-4)


ENDLESS = [*FLAGS, "--config.train.steps=1000000", "--config.train.evaluate_every=0"]
ENDLESS += ["--config.train.checkpoint_every=1000000", "--config.train.log_every=1"]


def start_stepping(workdir, *flags):
    """Two processes that have made a few steps of a million."""
    processes = start(2, 2, f"--workdir={workdir}", *ENDLESS, *flags)
    metrics, patience = workdir / "metrics.jsonl", time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert time.monotonic() < patience and processes[0].poll() is None
        time.sleep(0.2)
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_the_others_stop(tmp_path, killed):
    """In mid-step, the first of them (who coordinates) or another; in bounded time."""
    processes = start_stepping(tmp_path / "run")
    processes[killed].kill()
    ((status, _, errors),) = finish([processes[1 - killed]], timeout=60)
    processes[killed].communicate()
    # Whichever notices first: the exchange, whose error is logged, or jax, which ends the process.
    assert status in (1, -signal.SIGABRT)
    logged = "error: this process of several stopped", "JAX distributed service detected fatal"
    assert logged[status != 1] in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_stops_them_all_at_the_same_step(tmp_path, number):
    """They save it and resume from it, as if nothing had happened."""
    workdir, alone = tmp_path / "run", tmp_path / "alone"
    schedule = "--config.optimizer.schedule=inverse_sqrt"  # which a length does not stretch
    processes = start_stepping(workdir, schedule)
    processes[1].send_signal(number)
    done = finish(processes, timeout=60)
    assert [status for status, *_ in done] == [75, 75], done
    assert "stopped on request: of 1000000 steps, " in done[0][2]
    (saved,) = (path.name for path in (workdir / "checkpoints").iterdir())
    rest = [*ENDLESS, schedule, f"--config.train.steps={int(saved) + 2}"]
    for folder in (workdir, alone):
        assert launch(f"--workdir={folder}", *rest).returncode == 0
    assert losses(workdir)[-2:] == pytest.approx(losses(alone)[-2:], abs=1e-4)


@pytest.mark.slow
def test_a_second_run_is_refused_in_every_process(tmp_path, trained):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    with lock.held(workdir):
        done = finish(start(2, 1, f"--workdir={workdir}", *LONG), timeout=90)
    assert all(status not in (0, None) for status, *_ in done)
    assert f"is in use by process {os.getpid()} on " in done[0][2] + done[1][2]


@pytest.mark.slow
def test_a_mistake_stops_them_all(tmp_path):
    """One that every process notices, each in its one line."""
    processes = start(2, 2, f"--workdir={tmp_path / 'run'}", *FLAGS, "--config.data.batch_rows=6")
    done = finish(processes, timeout=90)
    for status, _, errors in done:
        assert status == 2, errors
        assert "error: data.batch_rows=6 is not divisible by 4 devices" in errors


def test_flags_that_go_together():
    join = ["--coordinator=localhost", "--num_processes=1", "--process_id=0"]
    assert "--coordinator=localhost must be host:port" in refusal("--mode=evaluate", *join)
    done = launch("--mode=evaluate", "--num_processes=2")
    assert done.returncode == 2
    assert "--coordinator, --num_processes and --process_id go together" in done.stderr
