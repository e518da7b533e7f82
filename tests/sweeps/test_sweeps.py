"""--mode=sweep by launch.py itself, and what it refuses."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import FLAGS, ROOT, environment_with, launch, own_cache, refusal
from sweeping import EXPERIMENT, experiment, points, trials

from transformer_jax.config import experiment_files
from transformer_jax.config.files import load_config
from transformer_jax.config.options import flatten
from transformer_jax.errors import UserError
from transformer_jax.sweeps import sweep as sweeps_sweep

TYPES = {
    "demo": "a=b, 我 'c'",
    "optimizer.epsilon": 1e-09,
    "model.attention_bias": True,
    "train.tensorboard": False,
    "seed": 3,
    "model.dropout_rate": 0,
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of two points by launch.py, and what its launcher printed."""
    folder = tmp_path_factory.mktemp("swept")
    file = folder / "two.py"
    base = "config = Config(name='two'); config.data.corpus = 'small_world'; return config"
    file.write_text(
        "from transformer_jax.config.options import Config\n"
        f"def get_config(scale=''):\n    {base}\n"
        f"def sweep(scale=''):\n    yield {{'name': 'one' + scale, **{TYPES!r}}}\n"
        "    yield {'name': 'two', 'seed': 1, 'train.steps': 8}\n"
    )
    arguments = ["--mode=sweep", f"--config={file}:x", f"--workdir={folder}/run", *FLAGS]
    return folder, arguments, launch(*arguments, "--sweep_workers=2")


def test_the_points_are_trained_by_the_real_launcher(swept):
    folder, arguments, done = swept
    assert done.returncode == 0, done.stderr
    found = points(folder / "run")
    assert {name: p["state"] for name, p in found.items()} == dict.fromkeys(
        ("onex", "two"), "finished"
    )
    config = load_config(folder / "run" / "onex" / "config.json")
    assert {name: flatten(config)[name] for name in TYPES} == TYPES
    assert (config.name, config.model.d_model) == ("onex", 8)
    # The command line wins over a point, and sweep.json says so.
    assert load_config(folder / "run" / "two" / "config.json").train.steps == 4
    assert found["two"]["overrides"] == {"seed": 1, "train.steps": 4}
    for name, point in found.items():
        rows = (folder / "run" / name / "metrics.jsonl").read_text().splitlines()
        (valid,) = (r["valid"]["loss"] for r in map(json.loads, rows) if "valid" in r)
        assert point["value"] == valid
    again = launch(*arguments)
    assert again.returncode == 0
    assert points(folder / "run") == found, "finished points were run again"
    error = refusal(*arguments, "--config.model.d_ff=22")
    assert "the sweep run was started with other options (model.d_ff: 14 then, 22 now)" in error


@pytest.mark.slow
def test_the_real_launcher_killed_at_random_moments(swept, tmp_path):
    _, arguments, _ = swept
    line = [*arguments, f"--workdir={tmp_path}/run", "--sweep_workers=2", "--config.train.steps=40"]
    command, rng = [sys.executable, ROOT / "launch.py", *line], random.Random(23)
    environment = environment_with(own_cache("test_sweeps"))
    for _ in range(5):
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        time.sleep(rng.uniform(2, 14))
        process.kill()
        process.wait()
    done = launch(*line)
    assert done.returncode == 0, done.stderr
    assert {p["state"] for p in points(tmp_path / "run").values()} == {"finished"}
    states = trials(f"sqlite:///{tmp_path}/run/study.db")
    assert states == {"onex": ["COMPLETE"], "two": ["COMPLETE"]}
    for name in states:
        rows = (tmp_path / "run" / name / "metrics.jsonl").read_text().splitlines()
        steps = [row["step"] for row in map(json.loads, rows) if "train" in row]
        assert steps == list(range(1, 41))


def test_a_dry_run_prints_sizes_and_cost_and_runs_nothing(swept, tmp_path):
    _, arguments, _ = swept
    rest = [a for a in arguments if not a.startswith("--workdir")]
    options = ["--dry_run", "--accelerator=h100", f"--workdir={tmp_path}/none"]
    done = launch(*rest, *options, "--config.train.steps=1000")
    assert done.returncode == 0, done.stderr
    header, one, _, total, note = (line.split() for line in done.stdout.splitlines())
    assert header == ["point", "parameters", "steps", "FLOPs", "hours"]
    # In closed form. Embeddings of 701 pieces; projections of width 8; the feed-forward network of
    # 14 with biases; a norm has 2 × 8. The point "onex" adds biases to attention: 4 × 8.
    attention, norm = 4 * 8 * 8 + 4 * 8, 2 * 8
    feed_forward = 2 * 8 * 14 + 14 + 8
    expected = 701 * 8 + 3 * attention + 2 * feed_forward + 5 * norm
    assert one[:3] == ["onex", f"{expected:,}", "1,000"]
    assert float(total[2]) == pytest.approx(2 * float(one[3]), rel=0.01)
    assert note[:4] == ["hours:", "estimated", "for", "h100"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--config="], "--mode=sweep needs --config=FILE.py"),
        (["--sweep_index=1"], "--sweep_index belongs to --mode=train"),
        (["--sweep_trials=3"], "has no function search_space(trial)"),
        (["--accelerator=h100"], "goes with --mode=sweep --dry_run"),
        (["--chip_hour_price=2"], "goes with --mode=sweep --dry_run --accelerator"),
        (["--dry_run", "--chip_hour_price=2"], "--chip_hour_price goes with"),
        (["--workdir=gs://b/x"], "needs a folder of this machine, not gs://b/x"),
        (["--sweep_storage=nothing"], "--sweep_storage=nothing cannot be opened"),
        (["--config.train.evaluate_every=0"], "train.evaluate_every=0 computes none"),
    ],
)
def test_an_invalid_launch_line_is_refused(tmp_path, arguments, part):
    file = tmp_path / "points.py"
    file.write_text(EXPERIMENT + "def sweep(): return grid({'seed': [3, 5]})\n")
    line = [] if arguments == ["--config="] else [f"--config={file}", *arguments]
    assert part in refusal("--mode=sweep", f"--workdir={tmp_path}/run", *line)


@pytest.mark.parametrize(
    ("points", "part"),
    [
        ("[{'name': '../a'}]", "point ../a of sweep() of points.py: its name names a folder"),
        ("[{'name': 'a' * 201}]", "its name names a folder: use"),
        ("[{'name': 'study.db'}]", "point study.db of sweep() of points.py: its folder would be"),
        ("[{'name': 'a'}, {'name': 'A'}]", "its folder would be that of point a"),
        ("[{'name': 'a', 'sede': 1}]", "there is no option sede"),
        ("grid({'model.num_heads': [7]})", "point num_heads_7 of sweep() of"),
        ("grid({'train.evaluate_every': [0]})", "train.evaluate_every=0 computes none"),
        ("grid({'optimizer.clip_norm': [1e999]})", "clip_norm=inf must be a fin"),
        ("[{'name': 'a', 'seed': 0}, {'name': 'b'}]", "b of sweep() of points.py: it is the same"),
        ("grid({'train.steps': [7, 5]})", "same run as point steps_7: the command line overrides"),
        ("grid({'seed': 3})", "seed of a sweep needs a list of values, not 3"),
        ("grid({'demo': 'ab'})", "demo of a sweep needs a list of values"),
        ("[]", "sweep() of points.py has no points"),
        ("None", "sweep() of points.py returned a NoneType, not its points"),
        ("[]\ndel sweep\ndef search_space(trial): 0", "for its search_space(), set --sweep_trials"),
    ],
)
def test_invalid_points_are_refused(folder, points, part):
    file = Path(experiment(f"def sweep(): return {points}\n"))
    config = experiment_files.load_experiment(file)  # of 11 steps, as the command line says
    with pytest.raises(UserError) as caught:
        sweeps_sweep.load_points(file, config, ["--config.train.steps=11"])
    assert part in str(caught.value)


def test_a_dry_run_of_a_search_counts_the_base_experiment(tmp_path):
    file = tmp_path / "points.py"
    file.write_text(EXPERIMENT + "def search_space(trial): return {}\n")
    line = ["--mode=sweep", f"--config={file}", "--sweep_trials=2", "--dry_run"]
    done = launch(*line, "--accelerator=v5litepod-16", "--chip_hour_price=1000")
    assert done.returncode == 0, done.stderr
    *_, total, _, cost, note = done.stdout.splitlines()
    assert "each trial is counted as the base" in note
    hours = float(total.split()[-1])
    price = float(cost.split()[1].rstrip(",").replace(",", ""))
    assert price == pytest.approx(16_000 * hours, abs=16_000 * 0.005)


def test_a_search_space_that_returns_a_wrong_type_is_refused(folder):
    file = Path(experiment("def search_space(trial): return {'model.d_ff': 1.5}"))
    options = {"workers": 1, "num_trials": 1, "url": None, "arguments": [], "launcher": []}
    with pytest.raises(UserError, match=r"search_space\(\) of points.py: model.d_ff=1.5 is not"):
        sweeps_sweep.run(experiment_files.load_experiment(file), file, folder / "run", **options)
