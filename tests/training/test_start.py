"""Fine-tuning: a run that begins with the weights, the model and the tokenizer of another."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import ROOT, evaluate, in_process, json_lines, refusal, refused, tiny_config
from toy import assert_same_bits, tokenizers

import transformer_jax as tj
from transformer_jax.config.files import save_config
from transformer_jax.config.options import flatten
from transformer_jax.data import corpora, held_out
from transformer_jax.errors import Preempted
from transformer_jax.evaluation import comparison
from transformer_jax.evaluation.scores import corpus_scores
from transformer_jax.evaluation.translations import write_translations
from transformer_jax.inference.weights import load_step
from transformer_jax.modes import command_line
from transformer_jax.modes.resume_proof import compare, last_state
from transformer_jax.training import preemption
from transformer_jax.training.run import train
from transformer_jax.training.step import TrainState
from transformer_jax.training.validation import Validation
from transformer_jax.workdir import manifest
from transformer_jax.workdir.checkpoints import Checkpoints
from transformer_jax.workdir.metrics import validations


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Validation does not compile a search."""
    monkeypatch.setattr(Validation, "__init__", lambda self, prepared: None)
    scores = {"loss": 3.0, "bleu": 2.0}
    monkeypatch.setattr(Validation, "__call__", lambda self, params: (dict(scores), []))


@pytest.fixture
def parent(trained, tmp_path):
    """A copy of a trained workdir, which may be removed."""
    return shutil.copytree(trained[0], tmp_path / "parent")


def tuning(parent, **options):
    """Other text, another schedule, and a model and a vocabulary that are not the parent's."""
    changes = {"data.train_size": 300, "data.vocab_size": 653, "model.d_model": 22}
    changes |= {"optimizer.schedule": "cosine", "optimizer.learning_rate_scale": 1e-3}
    changes |= {"train.start_from": str(parent), "train.keep_every": 2, "train.evaluate_every": 2}
    return tiny_config(changes | options)


def params_at(workdir, step):
    return load_step(workdir, step, tj.load(workdir, weights="latest").params)


def test_the_run_begins_with_the_parents_weights_and_tokenizer(parent, tmp_path, capsys):
    workdir, before = tmp_path / "w", tj.load(parent)
    model = train(tuning(parent), workdir).model
    assert "the model and its vocabulary are those of" in (error := capsys.readouterr().err)
    assert "data.vocab_size=701, model.d_model=8" in error
    # A kept checkpoint of step 0, as every second one is here, has what the run began with.
    assert_same_bits(params_at(workdir, 0), before.params)
    assert model.tokenizers.source.vocabulary == before.tokenizers.source.vocabulary
    assert model.transformer == before.transformer
    saved, theirs = flatten(model.config), flatten(before.config)
    assert (saved["model.d_model"], saved["data.vocab_size"]) == (8, 701)
    assert saved["data.train_size"] == 300 and theirs["data.train_size"] == 500
    assert list(validations(workdir)) == [0, 2, 4], "also before the first step"
    assert model.steps[0] == [2, 4], "the parent is no part of the average"
    for a, b in zip(*map(jax.tree.leaves, (params_at(workdir, 4), before.params)), strict=True):
        assert np.abs(a - b).max() > 0
    about = json.loads((workdir / "card.json").read_text())["parent"]
    assert (about["workdir"], about["weights"], about["steps"]) == (str(parent), "average", [2, 4])
    lists = {str(s): parent / "checkpoints" / str(s) / "manifest.sha256" for s in (2, 4)}
    hashes = {step: manifest.sha256(path)[:16] for step, path in lists.items()}
    assert about["checkpoints"] == hashes
    assert about["tokenizer"] == {
        "tokenizer.model": manifest.sha256(parent / "tokenizer.model")[:16]
    }


@pytest.mark.parametrize("weights", ["latest", "best"])
def test_other_weights_to_begin_with_and_another_dtype_to_compute_in(parent, tmp_path, weights):
    config = tuning(parent, **{"train.start_weights": weights, "train.steps": 1})
    config.train.checkpoint_every = config.train.evaluate_every = 1
    config.model.compute_dtype = "bfloat16"
    train(config, tmp_path / "w")
    assert tj.load(tmp_path / "w").transformer.config.compute_dtype == "bfloat16"
    assert_same_bits(params_at(tmp_path / "w", 0), params_at(parent, 4))


ALL_AT_ONCE = {"train.frozen": "^encoder", "train.r_drop": 3.0, "model.dropout_rate": 0.3}


@pytest.mark.parametrize(
    ("stopped_at", "options"),
    [(0, {}), (3, {}), pytest.param(3, ALL_AT_ONCE, marks=pytest.mark.slow)],
)
def test_a_run_that_has_begun_needs_its_parent_no_longer(parent, tmp_path, stopped_at, options):
    config = tuning(parent, **options)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(config, straight)
    card = json.loads((straight / "card.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        if stopped_at:
            patch.setattr(preemption, "requested", lambda step: step == stopped_at)
        else:  # killed while the weights it began with are validated
            patch.setattr(Validation, "__call__", interrupted)
        with pytest.raises(Preempted if stopped_at else KeyboardInterrupt):
            train(config, resumed)
    shutil.rmtree(parent)
    train(config, resumed)
    differing, report = compare(straight, resumed)
    assert not differing, report
    assert validations(resumed) == validations(straight)
    assert json.loads((resumed / "card.json").read_text())["parent"] == card["parent"]


def interrupted(self, params):
    raise KeyboardInterrupt


def test_what_is_frozen_is_the_parents_to_the_last_bit(parent, tmp_path):
    config = tuning(parent, **{"train.frozen": "^encoder|^embedding$"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preemption, "requested", lambda step: step == 3)
        with pytest.raises(Preempted):
            train(config, tmp_path / "w")
    train(config, tmp_path / "w")
    began, ended = params_at(tmp_path / "w", 0), params_at(tmp_path / "w", 4)
    same = {name: leaves_equal(began[name], ended[name]) for name in began}
    assert same == {"embedding": True, "encoder_0": True, "decoder_0": False}
    moments = [name for name in last_state(tmp_path / "w") if "mu" in name]
    assert moments and all("decoder_0" in name for name in moments)


def leaves_equal(a, b):
    return all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_what_is_gained_and_what_is_forgotten_is_one_table(parent, tmp_path, capsys):
    """Each model on the sentences of the other, from the command line and from Python."""
    workdir = tmp_path / "w"
    model = train(tuning(parent, **{"data.held_out_size": 23}), workdir).model
    assert "of 23 pairs" in capsys.readouterr().err
    evaluate(model.config, workdir, split="test", weights="average")
    message = refused(comparison.compare, parent, workdir, split="test")
    assert f"30 sentences in {parent} and 23 in {workdir}" in message
    for one, owner, number in ((workdir, parent, 30), (parent, workdir, 23)):
        assert f"--workdir={one} --split=test --sentences_of={owner}" in message
        in_process("evaluate", one, sentences_of=owner)
        folder = one / "evaluation" / f"test-of-{owner.name}"
        theirs = json_lines(owner / "evaluation" / "test" / "translations.jsonl")
        rows = json_lines(folder / "translations.jsonl")
        assert [row["source"] for row in rows] == [row["source"] for row in theirs]
        assert len(rows) == number
    scores = json.loads((folder / "scores.json").read_text())
    assert tj.evaluate(tj.load(parent), sentences_of=workdir).bleu == scores["bleu"]
    text = comparison.compare(parent, workdir, split="test")
    assert text.startswith("test of A, 30 sentences; test of B, 23 sentences")
    card = json.loads((workdir / "card.json").read_text())
    splits = [found["split"] for found in card["results"]["evaluations"]]
    assert splits == ["test", "test-of-parent"]
    assert "has not been evaluated on valid" in refused(
        tj.evaluate, model, "valid", sentences_of=parent
    )


def test_sentences_of_another_run_keep_corpora_and_are_of_the_same_languages(parent, tmp_path):
    owner, config = tmp_path / "owner", tiny_config()
    owner.mkdir()
    save_config(config, owner / "config.json")
    columns = ["我有猫", "你有狗", "她有鸟"], ["no"] * 3, ["I a cat", "you a dog", "she a bird"]
    scores = corpus_scores(*columns[1:], target_language="en", bootstrap=0)
    origins = ["news", "med", "news"]
    write_translations(owner / "evaluation" / "test", scores, *columns, origins=origins)
    in_process("evaluate", parent, sentences_of=owner)
    folder = parent / "evaluation" / "test-of-owner"
    assert [row["corpus"] for row in json_lines(folder / "translations.jsonl")] == origins
    bins = json.loads((folder / "scores.json").read_text())["bins"]["corpus"]
    assert {found["name"]: found["sentences"] for found in bins} == {"med": 1, "news": 2}
    config.data.target_language = "de"
    save_config(config, owner / "config.json")
    message = refused(tj.evaluate, tj.load(parent), sentences_of=owner)
    assert message.startswith(f"{owner} translates zh to de, and {parent} zh to en: choose ")


def test_a_test_text_that_the_parent_has_learned_counts_as_trained_on(parent, tmp_path, capsys):
    """So does that of the parent's parent, after both are gone."""
    about = tj.load(parent).config.data
    learned = corpora.load_split(about, "train").pairs[:7]
    new = corpora.load_split(about, "test").pairs[:29]
    for name, pairs in (("old", learned), ("new", new)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    old, new = str(tmp_path / "old.tsv"), str(tmp_path / "new.tsv")
    options = {"data.corpus": "files", "data.train": new, "data.valid": new, "data.test": old}
    config = tuning(parent, **options | {"data.train_size": 0})
    train(config, tmp_path / "w")
    expected = "warning: test: 7 of 7 pairs, and 7 sources, are in the training text of this run"
    assert f"{expected} and {parent}" in capsys.readouterr().err
    splits = corpora.load_splits(config.data, ["train", "valid", "test"])
    (tmp_path / "child").mkdir()
    shutil.rmtree(parent)
    held_out.record(tmp_path / "child", config.data, splits, tmp_path / "w")
    shutil.rmtree(tmp_path / "w")
    for split, number in (("test", 7), ("valid", 29)):
        _, overlap = held_out.load_split([tmp_path / "child"], config.data, split)
        assert overlap == (number, number, number)
    held_out.record(tmp_path / "child", config.data, splits)
    assert held_out.recorded_overlaps(tmp_path / "child")["test"]["pairs"] == 0


def test_a_run_does_not_go_on_from_another_parent(parent, tmp_path):
    """Neither of other weights, which it would not use, nor of another vocabulary."""
    config, other = tuning(parent), shutil.copytree(parent, tmp_path / "other")
    train(config, tmp_path / "w")
    config.train.start_from = str(other)
    train(config, tmp_path / "w")  # the same run, moved
    for step in ("2", "4"):
        (other / "checkpoints" / step / manifest.NAME).write_text("others")
    message = refused(train, config, tmp_path / "w")
    assert f"train.start_from={other} is not the run that {tmp_path / 'w'} began with, " in message
    assert str(parent) in message
    shutil.rmtree(other / "checkpoints")
    tokenizers().save(other)
    message = refused(train, config, tmp_path / "w")
    assert f"the tokenizer in {tmp_path / 'w'} is not that of train.start_from={other}" in message


def test_an_imported_model_is_trained_on_in_a_workdir_of_its_own(parent, tmp_path):
    """It has a checkpoint of step 0 without moments, and names no text."""
    model, imported = tj.load(parent), tmp_path / "imported"
    imported.mkdir()
    model.tokenizers.save(imported)
    config = dataclasses.replace(model.config, data=tj.DataConfig(corpus="files", vocab_size=701))
    save_config(config, imported / "config.json")
    with Checkpoints(imported, keep=1) as checkpoints:
        checkpoints.save(0, TrainState(jnp.zeros((), jnp.int32), model.params, (), None))
    message = refused(train, tiny_config(), imported)
    assert message == (
        f"{imported} holds an imported model: to train it on, choose another --workdir and give "
        f"--config.train.start_from={imported}"
    )
    train(tuning(imported), tmp_path / "w")
    assert_same_bits(params_at(tmp_path / "w", 0), model.params)


def test_an_experiment_file_of_another_architecture_reads_the_run(parent, tmp_path, capfd):
    """The quickstart's file has a larger model, which the run has not."""
    workdir = tmp_path / "w"
    train(tuning(parent), workdir)

    def command(mode, workdir, *flags):
        line = [f"--mode={mode}", "--config=experiments/quickstart.py", f"--workdir={workdir}"]
        line += [f"--config.train.start_from={parent}", *flags]
        return command_line.run(["launch.py", *line], ROOT / "experiments" / "quickstart.py")

    for folder in (tmp_path / "new", workdir):
        capfd.readouterr()
        command("describe", folder)
        assert "(701, 8)" in capfd.readouterr().out
    shutil.rmtree(parent)
    (tmp_path / "in.txt").write_text("我有一只猫\n")
    files = [f"--input={tmp_path / 'in.txt'}", f"--output={tmp_path / 'out.txt'}"]
    command("translate", workdir, *files)
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 1


# --- What is refused. ---


def test_a_parent_that_is_none(parent, tmp_path):
    missing = refused(train, tuning(tmp_path / "no"), tmp_path / "w")
    assert f"{tmp_path / 'no'} is not a workdir" in missing
    itself = refused(train, tuning(parent), parent)
    assert f"train.start_from={parent} is the --workdir itself" in itself
    best = tuning(parent, **{"train.start_weights": "best"})
    (parent / "metrics.jsonl").unlink()
    assert "has no evaluated checkpoint" in refused(train, best, tmp_path / "w")
    shutil.rmtree(parent / "checkpoints")
    found = refused(train, tuning(parent), tmp_path / "w")
    assert found == f"train.start_from={parent} has no checkpoint: train there first"


def test_a_workdir_with_another_tokenizer(parent, tmp_path):
    (tmp_path / "w").mkdir()
    tokenizers().save(tmp_path / "w")
    message = refused(train, tuning(parent), tmp_path / "w")
    assert f"the tokenizer in {tmp_path / 'w'} is not that of train.start_from={parent}" in message


def test_options_on_the_command_line_that_the_parent_contradicts(parent, tmp_path):
    line = ["--config=experiments/quickstart.py", f"--workdir={tmp_path / 'w'}"]
    line += [f"--config.train.start_from={parent}", "--config.model.num_layers=3"]
    error = refusal(*line, "--config.data.vocab_size=653", "--config.model.d_model=8")
    assert "does not fit data.vocab_size=653 (it has 701), model.num_layers=3 (it has 1)" in error
    assert "d_model" not in error and "leave these options out" in error


@pytest.mark.parametrize("pattern", ["encoder_7", "."])
def test_a_pattern_that_freezes_nothing_or_everything(parent, tmp_path, pattern):
    message = refused(train, tuning(parent, **{"train.frozen": pattern}), tmp_path / "w")
    assert f"train.frozen={pattern!r} matches " in message
    assert message.endswith("parameter: decoder_0, embedding, encoder_0")
