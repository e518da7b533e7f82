"""Lanes: several runs in one step, each of which is the run that would have trained alone."""

import contextlib
import json
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from failures import launch_signalled
from launching import FLAGS, TINY, launch

from transformer_jax import command_line, lanes, programs, resume_proof, sweeps, training
from transformer_jax import config as configs
from transformer_jax.config import Config, UserError
from transformer_jax.model import Transformer

# Every traced number differs between the first three; the fourth takes steps that are not finite.
NUMBERS = {
    "seed": [3, 5, 5, 7],
    "optimizer.learning_rate_scale": [0.7, 2.3, 1.1, 3e38],
    "optimizer.warmup_steps": [11, 17, 5, 11],
    "optimizer.beta1": [0.9, 0.85, 0.8, 0.9],
    "optimizer.beta2": [0.98, 0.97, 0.99, 0.98],
    "optimizer.epsilon": [1e-9, 1e-8, 1e-7, 1e-9],
    "optimizer.clip_norm": [0.5, 1.5, 3.0, 0.5],
    "optimizer.label_smoothing": [0.1, 0.0, 0.2, 0.1],
    "model.dropout_rate": [0.1, 0.3, 0.2, 0.1],
    "model.attention_dropout_rate": [0.2, 0.1, 0.3, 0.2],
}
NAMES = ["a", "b", "c", "broken"]
LONGER = ["--config.train.steps=12", "--config.train.checkpoint_every=3"]
LONGER += ["--config.train.evaluate_every=6", "--config.train.max_skipped=4"]
LONGER += ["--config.train.average_checkpoints=4"]


def test_the_options_that_are_traced_are_the_hyperparameters():
    assert set(NUMBERS) == set(programs.TRACED)
    config = Config()
    command_line.apply_overrides(config, {o: v[1] for o, v in NUMBERS.items()}, origin="")
    h = training.hyperparameters(config)
    for option, values in NUMBERS.items():
        assert float(getattr(h, option.rpartition(".")[2])) == pytest.approx(values[1])
    for option in programs.NONE_IF_ZERO:
        other = Config()
        command_line.apply_overrides(other, {o: v[1] for o, v in NUMBERS.items()}, origin="")
        assert programs.program(other) == programs.program(config)
        command_line.apply_overrides(other, {option: 0}, origin="")
        assert getattr(training.hyperparameters(other), option.rpartition(".")[2]) is None
        assert programs.program(other) != programs.program(config), "another program"


# ---------------------------------------------------------------------------------------- the step
def lanes_of_step(number=3):
    """Configurations, the model, the step, new states and their batches [lanes, B, …]."""
    found = []
    for n in range(number):
        config = Config()
        tiny = {o: v for o, v in TINY.items() if o.startswith(("data.", "model."))}
        own = {option: values[n] for option, values in NUMBERS.items()}
        command_line.apply_overrides(config, tiny | own, origin="")
        found.append(config)
    model = Transformer(found[0].model, 31)
    create = training.make_create_state(found[0], model)
    states = [create(training.hyperparameters(config)) for config in found]
    rng = np.random.default_rng(13)
    tokens = lambda length: rng.integers(4, 31, (number, 5, length)).astype(np.int32)  # noqa: E731
    arange = lambda length: np.broadcast_to(np.arange(length, dtype=np.int32), (number, 5, length))  # noqa: E731
    ones = lambda length: np.ones((number, 5, length), np.int32)  # noqa: E731
    batch = {
        "source_tokens": tokens(7),
        "source_segments": ones(7),
        "source_positions": arange(7),
        "decoder_input": tokens(11),
        "labels": tokens(11),
        "target_segments": ones(11),
        "target_positions": arange(11),
        "row": arange(5)[:, 0],
    }
    return training.make_train_step(found[0], model), states, batch


def differences(a, b):
    """The largest of each array, of two states or metrics."""
    apart = lambda x, y: float(abs(np.float64(x) - np.float64(y)).max())  # noqa: E731
    return max(jax.tree.leaves(jax.tree.map(apart, a, b)))


@contextlib.contextmanager
def optimized():
    """Compiles as users do: the tests' environment leaves most optimizations out."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("in_turn", [True, False])
def test_a_lane_is_the_step_alone_and_what_is_not_finite_stays_in_it(in_turn):
    # As users run it: what the compiler merges is what could change a lane's bits.
    with optimized():
        _a_lane_is_the_step_alone(in_turn)


def _a_lane_is_the_step_alone(in_turn):
    step, states, batch = lanes_of_step()
    together = jax.jit(lanes.make_lanes_step(step, in_turn=in_turn))
    alone = jax.jit(step)
    state, broken = lanes.stack(states), lanes.stack(states)
    nothing = jax.tree.map(lambda x: x.at[1].set(jnp.nan), broken.params)
    broken = broken.replace(params=nothing)
    living = np.ones(3, bool)
    for _ in range(5):
        state, metrics = together(state, batch, living)
        broken, broken_metrics = together(broken, batch, living)
        for n in range(3):
            states[n], one = alone(states[n], {k: x[n] for k, x in batch.items()})
            own = {name: x[n] for name, x in metrics.items()}
            apart = max(differences(own, one), differences(lanes.lane_of(state, n), states[n]))
            assert apart == 0 if in_turn else apart < 1e-5, (n, apart)
    assert np.isnan(broken_metrics["loss"][1])
    assert np.isnan(lanes.lane_of(broken, 1).params["embedding"]).all()
    for n in (0, 2):
        same = jax.tree.map(
            lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(),
            lanes.lane_of(broken, n),
            lanes.lane_of(state, n),
        )
        assert all(jax.tree.leaves(same)), "a neighbour of what is not finite has other bits"


def test_a_lane_that_does_not_live_makes_no_step():
    step, states, batch = lanes_of_step()
    together = jax.jit(lanes.make_lanes_step(step, in_turn=True))
    state, _ = together(lanes.stack(states), batch, np.array([True, False, True]))
    assert state.step.tolist() == [1, 0, 1]
    assert differences(lanes.lane_of(state, 1), states[1]) == 0


# ---------------------------------------------------------------------------------------- the runs
@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lanes")
    file = folder / "points.py"
    points = [
        {"name": name, **{option: values[n] for option, values in NUMBERS.items()}}
        for n, name in enumerate(NAMES)
    ]
    file.write_text(
        "from transformer_jax.config import Config\n"
        "def get_config():\n    return Config(name='points', demo='我有一只猫')\n"
        f"def sweep():\n    return {points!r}\n"
    )
    return folder, [f"--config={file}", *FLAGS, *LONGER]


def lanes_line(experiment, workdir):
    return [*experiment[1], f"--workdir={workdir}", f"--sweep_lanes={','.join(NAMES)}"]


@pytest.fixture(scope="module")
def together(experiment):
    """Four lanes, one of which stops, and what was said."""
    workdir = experiment[0] / "together"
    done = launch(*lanes_line(experiment, workdir))
    assert done.returncode == 2, done.stderr
    return workdir, done


def test_each_lane_is_the_run_trained_alone(experiment, together):
    workdir, done = together
    assert "3 pairs longer" in done.stderr and done.stderr.count("training: ") == 1
    assert done.stderr.splitlines()[-1] == "error: 1 of 4 lanes stopped: broken"
    for number, name in enumerate(NAMES[:3]):
        alone = experiment[0] / "alone" / name
        of_one = launch(*experiment[1], f"--workdir={alone}", f"--sweep_index={number}")
        assert of_one.returncode == 0, of_one.stderr
        lane = workdir / name
        same_run(lane, alone)
        for file in ("config.json", "training_data.sha256", "tokenizer.model", "samples.jsonl"):
            assert (lane / file).read_bytes() == (alone / file).read_bytes(), file
        evaluated = "evaluation/test/translations.tsv"
        assert (lane / evaluated).read_bytes() == (alone / evaluated).read_bytes()
        card = json.loads((lane / "card.json").read_text())
        assert (card["state"], card["lanes"]) == ("finished", 4)
        assert (lane / "log.txt").read_text() == "finished\n"
        assert not (lane / "lock").exists()


def same_run(a, b):
    """Bits of the last state, every loss and every validation."""
    assert resume_proof.differing_arrays(*map(resume_proof.last_state, (a, b))) == []
    rows = []
    for workdir in (a, b):
        read = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        rows.append([without_time(row) for row in read])
    assert len(rows[0]) > 5
    assert rows[0] == rows[1]


def without_time(row):
    train = row.get("train", {})
    return {**row, "time": 0, "train": {k: v for k, v in train.items() if k != "tokens_per_second"}}


def test_a_lane_that_cannot_go_on_says_why(together):
    workdir, done = together
    assert "warning: broken stops: 4 steps in a row were skipped" in done.stderr
    (line,) = (workdir / "broken" / "log.txt").read_text().splitlines()
    assert line.startswith("error: 4 steps in a row were skipped, the last because its ")
    assert json.loads((workdir / "broken" / "card.json").read_text())["state"] == "failed"
    assert not (workdir / "broken" / "evaluation").exists()
    assert not (workdir / "broken" / "lock").exists()


@pytest.mark.slow
def test_a_lane_goes_on_alone(experiment, together, tmp_path):
    longer = ["--config.train.steps=13", f"--workdir={tmp_path / 'a'}"]
    subprocess.run(["cp", "-r", together[0] / "a", tmp_path], check=True)
    done = launch(*experiment[1], "--sweep_index=0", *longer)
    assert done.returncode == 0, done.stderr
    assert "goes on from step 12" in done.stderr


@pytest.mark.slow
def test_lanes_that_are_killed_and_stopped_end_as_whole_ones(experiment, together, tmp_path):
    line = lanes_line(experiment, tmp_path)
    # The second of the lanes that save step 6: two have step 3 as the last, and one has 6.
    at = "checkpoint", "Checkpoints.save", 5 + 1
    done = launch_signalled(*line, at=at, signals=[signal.SIGKILL])
    assert done.returncode == -signal.SIGKILL, done.stderr
    at = "tracking", "Tracker.train_step", 3 * 5 + 1
    done = launch_signalled(*line, at=at, signals=[signal.SIGTERM])
    assert done.returncode == configs.PREEMPTED_STATUS == 75, done.stderr
    assert "go on from step 3" in done.stderr, done.stderr
    assert " of each lane are saved; the same line goes on" in done.stderr
    steps = [resume_proof.manifest.complete(tmp_path / n / "checkpoints")[-1] for n in NAMES[:3]]
    assert len(set(steps)) == 1 and steps[0] > 6, "all lanes save the same step"
    assert json.loads((tmp_path / "a" / "card.json").read_text())["state"] == "stopped"
    done = launch(*line)
    assert done.returncode == 2, done.stderr
    # What stopped at step 7, and has no later checkpoint, takes the others back to it once more.
    assert "a goes back to step 6, which all lanes have" in done.stderr
    for name in NAMES[:3]:
        same_run(tmp_path / name, together[0] / name)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        ({"train.rng": "rbg"}, "train.rng='rbg' draws other numbers"),
        ({"parallel.strategy": "pmap"}, "parallel.strategy='pmap'"),
        ({"parallel.fsdp": 2}, "fsdp and tensor are -1, 2, 1"),
        ({"model.attention": "splash", "model.d_model": 8}, "no model.attention='splash'"),
    ],
)
def test_what_cannot_be_a_lane(overrides, part):
    config = Config()
    programs.check_lane(config)
    command_line.apply_overrides(config, overrides, origin="")
    with pytest.raises(UserError) as caught:
        programs.check_lane(config)
    assert part in str(caught.value)


def test_lanes_of_two_programs_are_refused(tmp_path):
    a, b = Config(), Config()
    b.model.d_ff, b.model.dropout_rate = 7, 0
    with pytest.raises(UserError) as caught:
        lanes.Together([(a, tmp_path / "a"), (b, tmp_path / "b")], lambda *_: None)
    assert "model.d_ff, model.dropout_rate (0 or not) differ" in str(caught.value)


def test_a_lane_of_no_point(experiment):
    file = experiment[1][0].partition("=")[2]
    with pytest.raises(UserError, match=r"has no point 'brokn' \(did you mean broken\?\)"):
        sweeps.lanes(Config(), command_line.Path(file), [], ["a", "brokn"])
