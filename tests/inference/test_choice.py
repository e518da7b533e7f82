"""The choice among candidates: minimum Bayes risk and a reverse model, by their definitions."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import FLAGS, config_of, in_process, launch, refusal, refused
from sacrebleu.metrics import CHRF

import transformer_jax as tj
from transformer_jax.config.checks import check_config
from transformer_jax.evaluation.utility import pairwise_chrf
from transformer_jax.inference.choice import by_bayes_risk, by_reverse_model
from transformer_jax.inference.scorer import TokenScores
from transformer_jax.inference.translator import Hypothesis

LINES = ["我有一只猫", "", "他是老师。", "她有三本书。", "我有一只猫"]
WORDS = ["a", "cat", "cats", "dog", "the"]


# ---------------------------------------------------------------------------- minimum Bayes risk
def candidates(texts, log_probs):
    return [Hypothesis(t, s, s, (5,)) for t, s in zip(texts, log_probs, strict=True)]


@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join), min_size=1, max_size=7),
    st.booleans(),
    st.data(),
)
def test_the_least_risk_is_that_of_the_definition(texts, sampled, data):
    numbers = st.floats(-90, -1)
    log_probs = data.draw(st.lists(numbers, min_size=len(texts), max_size=len(texts)))
    rows = by_bayes_risk(candidates(texts, log_probs), utility=pairwise_chrf, sampled=sampled)
    weights = [1.0 if sampled else math.exp(each) for each in log_probs]

    def expected(text):  # over all candidates, of which some are equal
        found = [CHRF().sentence_score(text, [other]).score for other in texts]
        return math.fsum(w * u for w, u in zip(weights, found, strict=True)) / math.fsum(weights)

    assert sorted(h.text for h in rows) == sorted(set(texts)), "each text once"
    for h in rows:
        assert h.score == pytest.approx(expected(h.text), abs=1e-9)
    assert [h.score for h in rows] == sorted((h.score for h in rows), reverse=True)


@pytest.mark.fast
def test_a_likely_outlier_loses_to_the_middle_of_the_others():
    texts = ["no idea", "the cat sat", "the cat sits", "a cat sits"]
    found = candidates(texts, [-1.0, -2.0, -2.0, -2.0])
    assert by_bayes_risk(found, utility=pairwise_chrf, sampled=True)[0].text == "the cat sits"
    certain = candidates(texts, [-1.0, -20.0, -20.0, -20.0])
    assert by_bayes_risk(certain, utility=pairwise_chrf, sampled=False)[0].text == "no idea"
    often = candidates([*texts, *["no idea"] * 7], [-1.0] * 11)
    assert by_bayes_risk(often, utility=pairwise_chrf, sampled=True)[0].text == "no idea"
    assert by_bayes_risk([], utility=pairwise_chrf, sampled=True) == []


# ------------------------------------------------------------------------------- a reverse model
@pytest.mark.fast
def test_the_noisy_channel_by_hand():
    """Two sources, in one call; the code of a language is no part of the text."""
    rows = [
        [Hypothesis("x", -1.0, -6.0, (5, 6, 3)), Hypothesis("y", -2.0, -2.0, (5, 3)),
         Hypothesis("x", -3.0, -9.0, (5, 3)), Hypothesis("long", 0.0, 0.0, (5, 3))],
        [],
        [Hypothesis("z", -5.0, -5.0, (7, 3))],
    ]  # fmt: skip
    asked = []

    def score(texts, sources):
        asked.extend(zip(texts, sources, strict=True))
        known = {"x": TokenScores(("a", "b"), (-1.0, -3.0)), "y": TokenScores(("a",), (-7.0,)),
                 "z": TokenScores(("a",), (-1.0,)), "long": None}  # fmt: skip
        return [known[text] for text in texts]

    found = by_reverse_model([">>fra<< A", "B", "C"], rows, score=score, weight=0.5)
    assert asked == [("x", "A"), ("y", "A"), ("long", "A"), ("z", "C")]
    assert [[(h.text, h.score) for h in row] for row in found] == [
        [("x", -6 / 3 + 0.5 * -4 / 2), ("y", -2 / 2 + 0.5 * -7), ("long", -math.inf)],
        [],
        [("z", -5 / 2 + 0.5 * -1)],
    ]
    plain = by_reverse_model(["A", "B", "C"], rows, score=score, weight=0.0)
    assert [h.text for h in plain[0]] == ["y", "x", "long"]


@pytest.fixture(scope="module")
def backward(tmp_path_factory):
    """A model of the other direction."""
    workdir = tmp_path_factory.mktemp("runs") / "backward"
    languages = ["--config.data.source_language=en", "--config.data.target_language=zh"]
    done = launch(f"--workdir={workdir}", *FLAGS, *languages)
    assert done.returncode == 0, done.stderr
    return workdir


def config(workdir, **decode):
    saved = config_of(workdir)
    return dataclasses.replace(saved, decode=dataclasses.replace(saved.decode, **decode))


def test_a_workdir_reranks_what_another_finds(workdir, backward):
    found = {"method": "beam", "beam_size": 3}
    plain = tj.load(workdir, config=config(workdir, **found))
    options = config(workdir, **found, choose="reverse", reverse_weight=0.7)
    both = tj.load(workdir, config=options, reverse=backward)
    first = plain.hypotheses(LINES)
    ranked = both.translate(LINES, n_best=3, return_scores=True)
    reverse = tj.load(backward)
    for line, candidates, row in zip(LINES, first, ranked, strict=True):
        expected = {}
        for h in candidates:
            back = reverse.score(h.text, line)
            forward = h.log_prob / max(len(h.ids), 1)
            expected.setdefault(h.text, forward + 0.7 * back.log_prob / len(back.log_probs))
        got = {h.text: h.score for h in row}
        assert got.keys() == expected.keys()
        np.testing.assert_allclose([got[t] for t in expected], [*expected.values()], rtol=1e-4)
        assert [h.score for h in row] == sorted(got.values(), reverse=True)
    assert both.fingerprint() != tj.load(workdir, config=options).fingerprint()


# ----------------------------------------------------------------------------------- the commands
def test_samples_are_ranked_by_every_command(workdir, tmp_path):
    sampled = config(workdir, method="sample", choose="mbr", candidates=5, utility="bleu")
    model = tj.load(workdir, config=sampled)
    source, output = tmp_path / "source", tmp_path / "output"
    source.write_text("".join(line + "\n" for line in LINES), encoding="utf-8")
    given = {"input": source, "output": output, "n_best": 2}
    in_process("translate", workdir, sampled, **given)
    rows = [line.split("\t") for line in output.read_text(encoding="utf-8").splitlines()]
    found = model.hypotheses(LINES)
    assert [text for *_, text in rows] == [h.text for row in found for h in row[:2]]
    assert [h[0].text for h in found] == model.translate(LINES)
    drawn = tj.load(workdir, config=config(workdir, method="sample")).hypotheses(LINES, n_best=5)
    assert [{h.text for h in row} for row in found] == [{h.text for h in row} for row in drawn]
    in_process("evaluate", workdir, sampled, split="valid")


def test_a_choice_that_is_none_is_refused(workdir, backward):
    for name, options in {
        "'greedy' finds one": {"method": "greedy"},
        "decode.beam_size=1 finds one": {"method": "beam", "beam_size": 1},
        "must be at least 2": {"method": "sample", "candidates": 1},
    }.items():
        assert name in refused(check_config, config(workdir, choose="mbr", **options))
    beam = {"method": "beam", "beam_size": 3, "choose": "reverse"}
    message = refused(lambda: tj.load(workdir, config=config(workdir, **beam)).translate("我"))
    assert "--reverse=DIR" in message
    message = refused(in_process, "train", workdir, config(workdir, **beam))
    assert "--reverse=DIR, which --mode=train does not have" in message
    message = refused(tj.load, workdir, config=config(workdir, **beam), reverse=workdir)
    assert "translates zh → en" in message and "other direction" in message
    wanted = {"workdir": workdir, "reverse": backward}
    assert "set --config.decode.choose=reverse" in refused(tj.load, **wanted)
    sampled = config(workdir, method="sample", choose="mbr", candidates=5)
    message = refused(tj.load(workdir, config=sampled).translate, "我", n_best=6)
    assert "n_best=6 is more than the decode.candidates=5" in message
    error = refusal("--mode=translate", f"--workdir={workdir}", f"--reverse={backward}", text="我")
    assert "decode.choose" in error
