"""When validation ends a run, and which average it chooses: by the metrics file alone."""

import json
import math

import jax
import numpy as np
import pytest
from launching import refused, tiny_config

import transformer_jax as tj
from transformer_jax.errors import Preempted
from transformer_jax.inference.weights import load_step
from transformer_jax.modes.resume_proof import compare
from transformer_jax.training import preemption, selection
from transformer_jax.training.run import train
from transformer_jax.training.validation import Validation
from transformer_jax.workdir import average
from transformer_jax.workdir.checkpoints import Checkpoints
from transformer_jax.workdir.metrics import METRICS_FILE, validations

NAN = math.nan


@pytest.mark.fast
@pytest.mark.parametrize(
    ("bleus", "losses", "expected"),
    [
        ([], [], 0),
        ([3.0], [5.0], 0),
        ([0.0, 0.0, 0.0], [5.0, 4.0, 3.0], 0),  # at first only the loss is better
        ([3.0, 4.0, 5.0], [2.0, 2.5, 3.0], 0),  # later only BLEU is
        ([3.0, 3.0, 2.0], [2.0, 2.0, 2.5], 2),  # as good is no better
        ([3.0, 2.0, 2.5], [2.0, 3.0, 2.5], 2),  # nor is better than the one before
        ([3.0, NAN, None], [2.0, None, NAN], 2),
        ([NAN, 1.0], [None, None], 0),
    ],
)
def test_validations_since_the_last_better_one(bleus, losses, expected):
    rows = {
        step: {"bleu": bleu, "loss": loss}
        for step, (bleu, loss) in enumerate(zip(bleus, losses, strict=True))
    }
    assert selection.waited(rows) == expected
    assert selection.waited(dict(reversed(rows.items()))) == expected


def test_averages_of_the_last_few_and_around_the_best():
    steps = [7, 11, 13, 17, 19, 23, 29]
    last = [(29,), (23, 29), (19, 23, 29), (17, 19, 23, 29), (13, 17, 19, 23, 29)]
    around = [(11,), (7, 11, 13), (7, 11, 13, 17)]  # nothing comes before 7
    assert selection.candidates(steps, number=5, best=11) == last + around
    assert selection.candidates(steps, number=5, best=None) == last
    assert selection.candidates(steps, number=5, best=2) == last
    assert selection.candidates([7, 11], number=3, best=11) == [(11,), (7, 11)]
    assert selection.candidates(steps, number=1, best=29) == [(29,)]


@pytest.mark.fast
def test_a_choice_holds_until_the_run_goes_on(tmp_path):
    assert average.chosen(tmp_path, [3, 5, 7]) == []
    average.record(tmp_path, 7, [{"steps": [3, 7], "bleu": 2.0, "loss": 1.0}])
    assert average.chosen(tmp_path, [3, 5, 7]) == [3, 7]
    assert average.chosen(tmp_path, [5, 7]) == [7], "what is left of it"
    assert average.chosen(tmp_path, [3, 5, 7, 11]) == average.chosen(tmp_path, []) == []


@pytest.mark.fast
def test_a_run_counts_with_the_validation_of_the_weights_that_are_used(tmp_path):
    rows = [{"step": 5, "valid": {"loss": 3.0, "bleu": 1.0}}, {"step": 7, "train": {"loss": 2.0}}]
    assert average.validation(tmp_path, []) == {}
    last = {"steps": [5], "loss": 3.0, "bleu": 1.0}
    assert average.validation(tmp_path, rows) == last
    best = {"steps": [3, 7], "bleu": 2.0, "loss": 1.0}
    average.record(tmp_path, 7, [best, {"steps": [7], "bleu": 1.5, "loss": 0.5}])
    assert average.validation(tmp_path, rows) == best
    on = {"step": 11, "train": {"loss": 2.0}}
    assert average.validation(tmp_path, [*rows, on]) == last, "the run went on"


def norm(params):
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
    return float(np.sqrt(sum((x**2).sum() for x in leaves)))


@pytest.fixture
def scored(monkeypatch):
    """Validation is quick and scripted: each BLEU of `bleus` once, then by the parameters' norm."""
    bleus = []

    def validate(self, params):
        bleu = bleus.pop(0) if bleus else 100 - norm(params)
        return {"loss": 50 - bleu, "bleu": bleu}, []

    monkeypatch.setattr(Validation, "__init__", lambda self, prepared: None)
    monkeypatch.setattr(Validation, "__call__", validate)
    return bleus


def patient(**options):
    every = {"train.steps": 13, "train.checkpoint_every": 1, "train.evaluate_every": 2}
    return tiny_config(every | {f"train.{name}": value for name, value in options.items()})


def test_a_run_ends_when_its_patience_does(tmp_path, scored, capsys):
    """It ends at the same step when resumed, and again when its command runs again."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    config = patient(patience=2, checkpoint_every=2)
    script = [3.0, 5.0, 4.0, 4.5]
    scored += script
    metrics = train(config, straight).metrics
    assert [row["step"] for row in metrics if "valid" in row] == [2, 4, 6, 8]
    assert metrics[-1]["step"] == 8
    error = capsys.readouterr().err
    assert "step 8: the last 2 validations improved neither BLEU nor loss" in error
    before = (straight / METRICS_FILE).read_bytes()
    train(config, straight)
    assert (straight / METRICS_FILE).read_bytes() == before
    # A signal during step 6, which is saved but not validated.
    scored += script
    asked = preemption.requested
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "requested", lambda step: step == 6 or asked(step))
        with pytest.raises(Preempted):
            train(config, resumed)
    assert list(validations(resumed)) == [2, 4]
    train(config, resumed)
    assert validations(resumed) == validations(straight)
    differing, lines = compare(straight, resumed)
    assert not differing, lines
    # More patience continues it.
    scored += [6.0, 7.0, 8.0]
    train(patient(patience=5, checkpoint_every=2), straight)
    assert list(validations(straight)) == [2, 4, 6, 8, 10, 12, 13]


def test_the_average_that_validates_best_is_the_one_that_is_used(tmp_path, scored, capsys):
    """Against the means of all windows by numpy, of the checkpoints that are left."""
    config = patient(average_checkpoints=3, choose_average=True, patience=3)
    scored += [3.0, 5.0, 4.0, 4.5, 4.25]
    model = train(config, tmp_path).model
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [3, 4, 5, 8, 9, 10], "the last 3, and those around the best, 4"
    params = {step: params_of(tmp_path, step) for step in kept}

    def mean(steps):
        rows = [params[step] for step in steps]
        return jax.tree.map(lambda *x: np.mean(np.stack(x), axis=0, dtype=np.float64), *rows)

    windows = [(10,), (9, 10), (8, 9, 10), (4,), (3, 4, 5)]
    best = min(windows, key=lambda steps: norm(mean(steps)))
    record = json.loads((tmp_path / "average.json").read_text())
    assert {tuple(row["steps"]) for row in record["compared"]} == set(windows)
    assert tuple(record["chosen"]) == best and list(model.steps[0]) == list(best)
    bleus = [row["bleu"] for row in record["compared"]]
    assert bleus == sorted(bleus, reverse=True)
    np.testing.assert_allclose(bleus[0], 100 - norm(mean(best)), rtol=1e-6)
    for found, right in zip(*map(jax.tree.leaves, (model.params, mean(best))), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-7)
    assert "validation chose the average of " in capsys.readouterr().err
    # Without the option it is the last few; a run that went on has no chosen one until its end.
    config.train.choose_average = False
    assert list(tj.load(tmp_path, config=config).steps[0]) == [8, 9, 10]
    assert "the average that validation chose is not used" in capsys.readouterr().err
    config.train.patience = 0
    assert list(train(config, tmp_path).model.steps[0]) == [11, 12, 13]
    config.train.choose_average = True
    assert list(tj.load(tmp_path, config=config).steps[0]) == [11, 12, 13]
    (tmp_path / "average.json").write_text("[]")
    message = refused(tj.load, tmp_path, config=config)
    assert f"{tmp_path}/average.json is damaged" in message


def test_without_an_undamaged_checkpoint_nothing_is_averaged(tmp_path, scored, monkeypatch):
    wait = Checkpoints.wait

    def wait_and_damage(self):
        wait(self)
        for file in tmp_path.glob("checkpoints/*/params/**/*"):
            if file.is_file():
                file.write_bytes(b"")

    monkeypatch.setattr(Checkpoints, "wait", wait_and_damage)
    message = refused(train, patient(choose_average=True, steps=2), tmp_path)
    assert message == f"every checkpoint of {tmp_path} is damaged: see the warnings"
    assert not (tmp_path / "average.json").exists()


def params_of(workdir, step):
    like = tj.load(workdir, weights="latest").params
    return jax.tree.map(np.asarray, load_step(workdir, step, like))
