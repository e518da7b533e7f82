"""A whole run on a disk that fills up in the middle, and is given room again."""

import pytest
from failures import poison
from launching import fill, refused, tiny_config

from transformer_jax.training.run import train
from transformer_jax.workdir.checkpoints import Checkpoints
from transformer_jax.workdir.metrics import read_metrics
from transformer_jax.workdir.tracking import Tracker


@pytest.fixture
def config():
    steps = {"train.steps": 9, "train.checkpoint_every": 2, "train.evaluate_every": 4}
    return tiny_config(steps | {"train.tensorboard": True})


def fill_before_saving(monkeypatch, step, folder):
    """The disk is full from here on; returns a list of the file to remove."""
    original, filler = Checkpoints.save, []

    def save(checkpoints, number, state):
        if number == step:
            checkpoints.wait()
            filler.append(fill(folder))
        original(checkpoints, number, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    return filler


def test_a_run_lives_through_a_full_disk(small_disk, config, monkeypatch, capsys):
    """With TensorBoard, a skipped step, and validations, all while there is no room."""
    poison(monkeypatch, step=5, row=0)
    config.train.steps = 17
    filler = fill_before_saving(monkeypatch, 4, small_disk)
    train_step = Tracker.train_step

    def with_room(tracker, step, metrics):
        if step == 16:
            filler[0].unlink()
        train_step(tracker, step, metrics)

    monkeypatch.setattr(Tracker, "train_step", with_room)
    train(config, small_disk)
    error = capsys.readouterr().err
    assert "the checkpoint of step 4 could not be saved (the disk is full)" in error
    assert "step 5 is skipped because its loss is nan; --mode=replay --step=5" in error
    assert error.count("TensorBoard's files end here") == 1
    rows = read_metrics(small_disk / "metrics.jsonl")
    assert [row["step"] for row in rows if "train" in row] == list(range(1, 18)), "none is lost"
    assert [row["step"] for row in rows if "valid" in row] == [4, 8, 12, 16, 17]
    assert (small_disk / "checkpoints" / "17" / "manifest.sha256").exists()


def test_a_disk_that_stays_full_is_an_error_after_the_last_step(
    small_disk, config, monkeypatch, capsys
):
    fill_before_saving(monkeypatch, 4, small_disk)
    message = refused(train, config, small_disk)
    assert message.startswith("the last checkpoint could not be saved: the disk is")
    error = capsys.readouterr().err
    assert "step 9/9 " in error, "all steps were made"
    assert "the last one is that of step 2" in error
