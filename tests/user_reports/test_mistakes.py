"""Mistakes around a start: each is one line that names what to change."""

import os
import re
import subprocess
import sys

import pytest
from launching import ROOT, refused

from transformer_jax.config.files import save_config
from transformer_jax.config.options import Config, DataConfig
from transformer_jax.data import corpora, splitting
from transformer_jax.modes import command_line
from transformer_jax.sweeps.study import Study
from transformer_jax.training import prepared, run


@pytest.mark.parametrize(
    ("platform", "hint"),
    [
        ("cuda", 'pip install "jax[cuda13]"'),
        ("gpu", 'pip install "jax[cuda13]"'),
        ("tpu", 'pip install "jax[tpu]"'),
        ("nonsense,cpu", "set it to cpu, cuda or tpu"),
    ],
)
def test_jax_does_not_start(platform, hint):
    """In a process of its own: jax reads the variable when it is imported."""
    done = subprocess.run(
        [sys.executable, ROOT / "launch.py", "--mode=describe"],
        env=os.environ | {"JAX_PLATFORMS": platform, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    if platform == "tpu" and done.returncode == 0:
        pytest.skip("this machine has a TPU")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert f"error: JAX_PLATFORMS={platform}, but jax cannot start" in done.stderr
    assert hint in done.stderr and "or unset it" in done.stderr


def first(trial):
    return {"model.dropout_rate": trial.suggest_float("dropout", 0, 0.3)}


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (lambda trial: trial.suggest_categorical("dropout", [0.1, 0.2]), "has changed"),
        (lambda trial: trial.suggest_int("dropout", 1, 3), "has changed"),
        (lambda trial: trial.suggest_float("rate", 3, 1), "correct the experiment file"),
        (lambda trial: trial.suggest_float("rate", 0, 1, log=True), "correct the experiment file"),
        (lambda trial: trial.suggest_categorical("rate", []), "correct the experiment file"),
    ],
)
def test_what_optuna_refuses(tmp_path, then, message):
    study = Study(f"sqlite:///{tmp_path}/study.db", "x")
    assert study.suggest(first, 9, seed=0)
    told = refused(study.suggest, then, 9, seed=0)
    assert told.startswith("search_space()") and message in told
    # The study survives it.
    assert study.suggest(first, 9, seed=0)
    assert [point.state for point in study.points()] == ["interrupted"] * 2


def test_a_mistake_of_the_search_space_itself_has_its_traceback(tmp_path):
    study = Study(f"sqlite:///{tmp_path}/study.db", "x")
    with pytest.raises(ZeroDivisionError):
        study.suggest(lambda trial: trial.suggest_int("a", 1, 2) / 0, 9, seed=0)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (["--config.model.d_ff=34"], "or leave out --config.model.d_ff to use"),
        (["--config=experiments/quickstart.py"], "or leave out --config to use"),
        (
            ["--config=experiments/quickstart.py", "--config.model.d_ff=34"],
            "or leave out --config, --config.model.d_ff to use",
        ),
    ],
)
def test_only_what_was_given_is_to_be_left_out(tmp_path, given, advice):
    config = Config()
    config.model.d_model = config.model.d_ff = 32
    save_config(config, tmp_path / "config.json")
    line = ["launch.py", "--mode=translate", f"--workdir={tmp_path}", "--input=/dev/null", *given]
    message = refused(command_line.run, line, ROOT / "experiments" / "quickstart.py")
    assert "choose another --workdir" in message and advice in message


def test_all_sizes_that_are_too_large_are_reported_together(tmp_path):
    """With values that fit: nothing else is wrong then."""
    for side in ("en", "de"):
        lines = (f"{side} {'abcdefg'[n % 7] * (n % 5 + 1)} {n}\n" for n in range(300))
        (tmp_path / f"a.{side}").write_text("".join(lines))
    config = Config(data=DataConfig(corpus="files", train="a.en,a.de", path=str(tmp_path)))
    config.data.vocab_size = 5000
    message = refused(run.train, config, tmp_path / "run")
    held_out = re.search(r"data.held_out_size=1000 .*: lower it to (\d+); ", message)
    vocab = re.search(r"data.vocab_size=5000 .*: lower it to (\d+)$", message)
    config.data.held_out_size, config.data.vocab_size = int(held_out[1]), int(vocab[1])
    splits = corpora.load_splits(config.data, ["train", "valid", "test"])
    assert len(splits["train"].pairs) > 200 and len(splits["test"].pairs) == 30
    assert prepared.new_tokenizers(config.data, splits["train"].pairs).source.vocab_size > 300
    # Pairs that are linked through one sentence cannot be cut at all.
    pairs = [("yes.", f"ja {n}") for n in range(50)]
    with pytest.raises(splitting.NothingToTrainOnError, match="give the other texts") as caught:
        splitting.hold_out(pairs, 3, ["valid", "test"])
    assert caught.value.fitting == 0
