"""What the record tells of a search is what enumeration by hand finds, step by step."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import toy

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, DecodeConfig
from transformer_jax.inference.capture import Capture
from transformer_jax.inference.translator import Translator
from transformer_jax.model.transformer import Transformer

BEAM, EXTRA, ALPHA = 3, 5, 0.7
DECODE = DecodeConfig(beam_size=BEAM, extra_length=EXTRA, length_penalty=ALPHA)
SENTENCES = ("我有一只猫", "他是老师。", "她")
MODEL = Transformer(dataclasses.replace(toy.MODEL, logits_bias=True), toy.VOCAB_SIZE)
PARAMS = toy.random_params(MODEL, stddev=0.5)
PARAMS["logits_bias"][EOS_ID] = 4.0  # so that some hypotheses end, and others go on


@pytest.fixture(scope="module")
def capture():
    return Capture(MODEL, toy.tokenizers(), DECODE)


@pytest.fixture(scope="module")
def next_log_probs():
    """(source ids, tokens so far) → the log-probs of the next, by the whole model at once."""
    apply = jax.jit(lambda *tokens: MODEL.apply({"params": PARAMS}, *tokens))

    def found(source, tokens):
        row = np.full((1, 23), PAD_ID, np.int32)
        row[0, : len(tokens) + 1] = [BOS_ID, *tokens]
        logits = np.asarray(apply(source[None], row)[0, len(tokens)], np.float64)
        log_probs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        log_probs[[PAD_ID, UNK_ID, BOS_ID]] = -np.inf
        return log_probs

    return found


def normalizer(length, alpha):
    return ((5 + length) / 6) ** alpha


@pytest.mark.parametrize("sentence", SENTENCES)
def test_each_step_of_a_beam_search_is_that_of_enumeration(sentence, capture, next_log_probs):
    record = capture.inside(PARAMS, [1], sentence)
    search, source = record.beam, record.source.ids
    live, finished = [((), 0.0)], []
    for number, step in enumerate(search.steps):
        assert step.step == number
        assert step.normalizer == pytest.approx(normalizer(number + 1, ALPHA), rel=1e-6)
        grown = [
            (log_prob + new, parent, token)
            for parent, (tokens, log_prob) in enumerate(live)
            for token, new in enumerate(next_log_probs(source, tokens))
        ]
        best = sorted(grown, key=lambda x: -x[0])[: 2 * BEAM]
        after, ended = [], []
        for rank, (candidate, (log_prob, parent, token)) in enumerate(
            zip(step.candidates, best, strict=True)
        ):
            assert (candidate.parent, candidate.id) == (parent, token)
            assert candidate.log_prob == pytest.approx(log_prob, abs=1e-4)
            assert candidate.score == pytest.approx(log_prob / step.normalizer, abs=1e-4)
            tokens = (*live[parent][0], token)
            assert candidate.text == toy.tokenizers().target.decode([tokens])[0]
            kept = "dropped"
            if token == EOS_ID and rank < BEAM:
                ended.append((candidate.score, tokens, rank))
            elif token != EOS_ID and len(after) < BEAM:
                kept, number_of_beam = "live", len(after)
                after.append((tokens, log_prob))
                assert candidate.beam == number_of_beam
            if token != EOS_ID:
                assert candidate.kept == kept
        finished = sorted([*finished, *ended], key=lambda x: -x[0])[:BEAM]
        for score, tokens, rank in ended:
            among_best = (score, tokens, rank) in finished
            assert step.candidates[rank].kept == ("finished" if among_best else "dropped")
        live = after
    complete = [h for h in search.hypotheses if h.pieces[-1] == "<eos>"]
    assert [h.ids for h in complete] == [tokens for _, tokens, _ in finished]
    kinds = {c.kept for step in search.steps for c in step.candidates}
    assert kinds == {"live", "finished", "dropped"}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_each_step_of_a_greedy_search_takes_the_best_of_ten(sentence, capture, next_log_probs):
    record = capture.inside(PARAMS, [1], sentence)
    tokens, total = (), 0.0
    for step in record.greedy.steps:
        log_probs = next_log_probs(record.source.ids, tokens)
        best = np.argsort(-log_probs)[:10]
        assert [c.id for c in step.candidates] == best.tolist()
        for candidate in step.candidates:
            expected = total + log_probs[candidate.id]
            assert candidate.log_prob == pytest.approx(expected, abs=1e-4)
        kept = "finished" if best[0] == EOS_ID else "live"
        assert [c.kept for c in step.candidates] == [kept] + ["dropped"] * 9
        tokens, total = (*tokens, int(best[0])), total + log_probs[best[0]]
    (found,) = record.greedy.hypotheses
    assert found.ids == tokens and found.score == pytest.approx(total, abs=1e-4)
    assert tokens[-1] == EOS_ID or len(tokens) == len(record.source.ids) + EXTRA


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_the_hypotheses_are_those_of_translating(method, capture):
    decode = DecodeConfig(method=method, beam_size=BEAM, extra_length=EXTRA, length_penalty=ALPHA)
    translator = Translator([MODEL], toy.tokenizers(), decode)
    for sentence, expected in zip(
        SENTENCES, translator.translate([PARAMS], SENTENCES), strict=True
    ):
        found = getattr(capture.inside(PARAMS, [1], sentence), method).hypotheses
        assert [h.ids for h in found] == [h.ids for h in expected]
        assert [h.text for h in found] == [h.text for h in expected]
        np.testing.assert_allclose(
            [(h.score, h.log_prob) for h in found],
            [(h.score, h.log_prob) for h in expected],
            atol=1e-4,
        )
        assert all(h.length == len(h.ids) == len(h.pieces) for h in found)


def test_another_length_penalty_ranks_the_same_hypotheses_otherwise(capture):
    flat, steep = (
        capture.inside(PARAMS, [1], "他是老师。", length_penalty=alpha).beam for alpha in (0.0, 3.0)
    )
    for search, alpha in ((flat, 0.0), (steep, 3.0)):
        assert search.length_penalty == alpha
        for h in search.hypotheses:
            expected = h.log_prob / normalizer(h.length, alpha)
            assert h.score == pytest.approx(expected, rel=1e-4)
    assert np.mean([h.length for h in steep.hypotheses]) > np.mean(
        [h.length for h in flat.hypotheses]
    )


def test_the_translation_is_that_of_the_method_and_what_the_decoder_reads(capture):
    record = capture.inside(PARAMS, [1], "我有一只猫")
    assert record.translation == record.beam.hypotheses[0].text
    assert record.labels == record.beam.hypotheses[0].pieces
    log_prob = np.log(record.prediction.chosen_probs).sum()
    assert log_prob == pytest.approx(record.beam.hypotheses[0].log_prob, abs=1e-3)
    assert math.isclose(-log_prob / len(record.labels), record.loss, rel_tol=1e-4)
    alone = capture.inside(PARAMS, [1], "我有一只猫", beams=False)
    assert alone.beam is None
    assert alone.labels == alone.greedy.hypotheses[0].pieces == record.greedy.hypotheses[0].pieces
