"""Parts of a workdir that do not belong together, as users of other toolkits mixed them up."""

import json
import shutil

import pytest
from launching import config_of, in_process, refused, tiny_config

import transformer_jax as tj
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizer


@pytest.fixture
def other_tokenizer():
    """One of the same size, trained on the same sentences written backwards."""
    texts = [text[::-1] for pair in grammar.pairs("train", size=211) for text in pair]
    return train_tokenizer(texts, vocab_size=701)


@pytest.mark.parametrize("mode", ["evaluate", "translate", "train"])
def test_a_tokenizer_swapped_in_is_refused_by_name(workdir, other_tokenizer, tmp_path, mode):
    other_tokenizer.save(workdir / "tokenizer.model")
    flags = {}
    if mode == "translate":
        (tmp_path / "in").write_text("我有一只猫\n")
        flags = {"input": tmp_path / "in"}
    message = refused(in_process, mode, workdir, **flags)
    assert f"{workdir}/tokenizer.model is not the one that checkpoint" in message


def test_tokenizers_of_each_side_added_to_a_shared_one_are_refused(workdir, other_tokenizer):
    Tokenizers(other_tokenizer, Tokenizers.load(workdir).target).save(workdir)
    assert "tokenizer.source.model" in refused(tj.load, workdir)


def test_tokenizers_of_two_sizes_beside_a_shared_one_are_refused(workdir):
    texts = [text for pair in grammar.pairs("train", size=211) for text in pair]
    smaller = train_tokenizer(texts, vocab_size=653)
    Tokenizers(smaller, Tokenizers.load(workdir).target).save(workdir)
    assert "tokenizer.source.model" in refused(tj.load, workdir)


def test_the_configuration_of_another_run_is_refused_by_option(workdir):
    path = workdir / "config.json"
    options = json.loads(path.read_text())
    options["model"]["norm"] = "pre"
    path.write_text(json.dumps(options))
    message = refused(tj.load, workdir)
    assert f"{path} has model.norm='pre'" in message
    assert "was trained with 'post'" in message


def test_checkpoints_of_another_run_are_refused(workdir, tmp_path):
    wider = tiny_config({"model.d_ff": 22, "train.evaluate_every": 0})
    tj.train(wider, tmp_path / "wider")
    shutil.rmtree(workdir / "checkpoints")
    shutil.copytree(tmp_path / "wider" / "checkpoints", workdir / "checkpoints")
    assert "model.d_ff=14" in refused(tj.load, workdir)


def test_checkpoints_of_earlier_versions_have_no_list(workdir):
    for path in workdir.glob("checkpoints/*/trained_with.json"):
        path.unlink()
        manifest = path.parent / "manifest.sha256"
        lines = manifest.read_text().splitlines(keepends=True)
        manifest.write_text("".join(line for line in lines if path.name not in line))
    assert tj.load(workdir).config == config_of(workdir)
