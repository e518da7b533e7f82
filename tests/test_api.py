"""The Python API: what a notebook's user types."""

import ast
import inspect
import subprocess
import sys
import typing

import numpy as np
import pytest
from launching import ROOT, TINY, refused, tiny_config

import transformer_jax as tj
from transformer_jax.inference.scorer import TokenScores


@pytest.fixture(scope="module")
def model(trained):
    return tj.load(trained[0])


@pytest.mark.fast
def test_the_import_is_light():
    code = (
        "import transformer_jax as tj, sys; tj.Config(), tj.grid; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.fast
def test_every_name_is_there_documented_and_typed():
    stubs = next(node for node in ast.parse(inspect.getsource(tj)).body if isinstance(node, ast.If))
    declared = {alias.asname or alias.name for node in stubs.body for alias in node.names}
    assert declared | {"__version__"} == set(tj.__all__) == set(dir(tj))
    for name in declared:
        assert inspect.getdoc(getattr(tj, name)), name
    with pytest.raises(AttributeError, match="no attribute 'translte'"):
        tj.translte  # noqa: B018


def test_a_sentence_gives_a_string_a_list_a_list_and_what_is_too_long_nothing(model):
    sentence = "我有一只猫"
    one = model.translate(sentence)
    assert isinstance(one, str)
    assert model.translate([sentence, "", sentence]) == [one, "", one]
    assert model.translate([]) == []
    long = "我 " * 3000
    assert model.translate([long, "我"])[0] == ""
    assert model.translate(long, return_scores=True) is None
    assert model.score([long], ["I"]) == [None]
    assert "pieces" in refused(model.encode, long)


def test_hypotheses_come_with_their_scores(trained):
    config = tj.load(trained[0]).config
    config.decode.method, config.decode.beam_size = "beam", 3
    model = tj.load(trained[0], config=config)
    texts = model.translate("我有一只猫", n_best=3)
    found = model.translate("我有一只猫", n_best=3, return_scores=True)
    assert [h.text for h in found] == texts and len(texts) == 3
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert model.translate("我有一只猫", return_scores=True).text == texts[0]
    assert model.translate(["我有一只猫"], n_best=2) == [texts[:2]]
    for wrong in (0, 4):
        assert f"n_best={wrong}" in refused(model.translate, "我有一只猫", n_best=wrong)


def test_scores_of_a_pair_and_of_lists(model):
    single = model.score("我有一只猫", "I have a cat")
    assert model.score(["我有一只猫"], ["I have a cat"]) == [single]
    with pytest.raises(ValueError, match="shorter"):
        model.score(["我", "你"], ["I"])
    with pytest.raises(ValueError, match="both"):
        model.score("我", ["I"])


def test_encode_is_the_encoder_whatever_the_padding(model):
    ids = np.array([[*model.tokenizers.source.encode(["我有一只猫"])[0], 3]])
    by_hand = model.apply(ids, method="encode")[0]
    encoded = model.encode("我有一只猫")
    assert encoded.shape == (ids.shape[1], model.config.model.d_model)
    np.testing.assert_allclose(encoded, by_hand, atol=1e-5)
    assert [x.shape for x in model.encode(["我", "我有一只猫"])][1] == encoded.shape


def test_a_run_gives_the_model_and_its_metrics(tmp_path):
    run = tj.train(tiny_config(), tmp_path / "run")
    steps = [row["step"] for row in run.metrics if "train" in row]
    assert steps == list(range(1, TINY["train.steps"] + 1))
    assert run.metrics[-1]["valid"].keys() == {"loss", "bleu"}
    scores = tj.evaluate(run.model, "valid")
    assert scores.sentences == TINY["data.held_out_size"] and 0 <= scores.bleu <= 100
    again = tj.load(tmp_path / "run")
    assert again.steps == run.model.steps
    assert again.fingerprint() == run.model.fingerprint(), "though it is not loaded"
    assert again.translate("我有一只猫") == run.model.translate("我有一只猫")
    assert "no split" in refused(tj.evaluate, again, "tset")


@pytest.mark.fast
def test_functional_is_usable_on_ones():
    ones = np.ones((1, 3, 2, 5), np.float32)
    out = tj.functional.attention.scaled_dot_product_attention(ones, ones, ones)
    np.testing.assert_allclose(out, ones, rtol=1e-6)


def test_inside_is_what_the_model_computes_for_a_sentence(model):
    record = model.inside("我有一只猫", "I have a cat")
    assert record.source.pieces[-1] == "<eos>" and record.target.pieces[0] == "<bos>"
    assert record.translation == model.translate("我有一只猫")
    ids = [*model.tokenizers.target.encode(["I have a cat"])[0], 3]
    logits = model.apply(record.source.ids[None], record.target.ids[None])[0]
    np.testing.assert_allclose(record.prediction.logits, logits, atol=1e-4)
    scored = model.score("我有一只猫", "I have a cat")
    np.testing.assert_allclose(np.log(record.prediction.chosen_probs), scored.log_probs, atol=1e-4)
    assert len(record.labels) == len(ids) and record.steps == tuple(model.steps[0])
    own = model.inside("我有一只猫")
    assert own.labels == own.greedy.hypotheses[0].pieces
    assert "blank" in refused(model.inside, " ")
    for texts in (("我 " * 3000,), ("我", "I " * 3000)):
        assert "the most are 102" in refused(model.inside, *texts)


def test_inside_at_a_checkpoint_has_its_parameters(model):
    early, late = (model.inside("我有一只猫", "I have a cat", step=step) for step in (2, 4))
    assert (early.steps, late.steps) == ((2,), (4,))
    latest = tj.load(model.workdirs[0], weights="latest").inside("我有一只猫", "I have a cat")
    np.testing.assert_array_equal(late.prediction.logits, latest.prediction.logits)
    assert np.abs(early.prediction.logits - late.prediction.logits).max() > 0
    error = refused(model.inside, "我", step=3)
    assert "has no checkpoint of step 3; it has those of 2, 4" in error


@pytest.mark.fast
def test_type_checkers_see_what_a_sentence_and_a_list_give():
    kinds = {
        "translate": {str, list[str]},
        "encode": {np.ndarray, list[np.ndarray]},
        "score": {TokenScores | None, list[TokenScores | None]},
    }
    for name, expected in kinds.items():
        returned = [
            typing.get_type_hints(f)["return"]
            for f in typing.get_overloads(getattr(tj.Model, name))
        ]
        assert expected <= set(returned), name
    assert (ROOT / "transformer_jax" / "py.typed").exists()
