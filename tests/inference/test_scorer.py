"""Scores of given translations: against decoding's own report, and whole-target logits."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from toy import MODEL, PAIRS, VOCAB_SIZE, random_params, tokenizers

from transformer_jax.config.options import BOS_ID, EOS_ID, DecodeConfig, ModelConfig
from transformer_jax.inference import batching
from transformer_jax.inference import scorer as inference_scorer
from transformer_jax.inference.scorer import Scorer, TokenScores, perplexity
from transformer_jax.inference.translator import Translator
from transformer_jax.model.transformer import Transformer

TOKENIZERS, V = tokenizers(), VOCAB_SIZE
CONFIGS = [
    MODEL,
    ModelConfig(num_layers=1, d_model=12, d_ff=10, num_heads=3, norm="pre", logits_bias=True),
]
MODELS = [Transformer(config, V) for config in CONFIGS]


@pytest.fixture(scope="module", autouse=True)
def short():
    """Few shapes to compile, in small batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "SOURCE_LENGTHS", (13, 47))
        patch.setattr(inference_scorer, "_BATCH_POSITIONS", 5 * 13)
        yield


@pytest.fixture(scope="module")
def params():
    return [random_params(model, seed) for seed, model in enumerate(MODELS)]


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
@pytest.mark.parametrize("number", [1, 2], ids=["one model", "ensemble"])
def test_scores_are_what_decoding_reported_for_its_own_output(params, method, number):
    models, params = MODELS[:number], params[:number]
    decode = DecodeConfig(method=method, beam_size=3, extra_length=3, batch_size=7)
    sources = [source for source, _ in PAIRS[:11]]
    found = Translator(models, TOKENIZERS, decode).translate(params, sources)
    pairs, reported = [], []
    for ids, hypotheses in zip(TOKENIZERS.source.encode(sources), found, strict=True):
        pairs += [([*ids, EOS_ID], h.ids) for h in hypotheses]
        reported += [h.token_log_probs for h in hypotheses]
    scores = Scorer(models, TOKENIZERS).score_ids(params, pairs)
    for score, expected in zip(scores, reported, strict=True):
        np.testing.assert_allclose(score.log_probs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.fast
def test_scores_come_in_order_whatever_the_company(params):
    scorer = Scorer(MODELS[:1], TOKENIZERS)
    pairs = [*PAIRS[:23], ("", ""), ("我", "I have a cat and a dog and two books")]
    ticks, whole = [], jax.jit(MODELS[0].apply)
    found = scorer.score(params[:1], pairs, progress=ticks.append)
    assert sum(ticks) == len(pairs) == len(found)
    for (source, target), scores in zip(pairs, found, strict=True):
        (s,), (t,) = TOKENIZERS.source.encode([source]), TOKENIZERS.target.encode([target])
        tokens = np.array([[*s, EOS_ID]]), np.array([[BOS_ID, *t]])
        logits = whole({"params": params[0]}, *tokens)
        log_probs = np.asarray(jax.nn.log_softmax(logits[0]))[range(len(t) + 1), [*t, EOS_ID]]
        np.testing.assert_allclose(scores.log_probs, log_probs, rtol=1e-4, atol=1e-4)
        assert scores.pieces == (*TOKENIZERS.target.pieces(target), "</s>")
        np.testing.assert_allclose(scores.log_prob, log_probs.sum(), rtol=1e-5)
        np.testing.assert_allclose(scores.perplexity, np.exp(-log_probs.mean()), rtol=1e-4)


def test_what_is_too_long_has_no_score_and_perplexity_is_per_piece(params):
    scorer = Scorer(MODELS[:1], TOKENIZERS)
    long = "我 " * 40
    found = scorer.score(params[:1], [(long, "a"), ("我", "I"), ("我", "a " * 60)])
    assert [scores is None for scores in found] == [True, False, True]
    assert scorer.score(params[:1], []) == []
    model = Transformer(dataclasses.replace(MODEL, positions="learned", max_positions=5), V)
    pairs = [([9] * 4 + [EOS_ID], [11, EOS_ID]), ([9] * 5 + [EOS_ID], [11, EOS_ID])]
    found = Scorer([model], TOKENIZERS).score_ids([random_params(model)], pairs)
    assert [scores is None for scores in found] == [False, True]
    assert TokenScores(("a", "b"), (math.log(0.5), math.log(0.125))).perplexity == 4
    assert perplexity(-1e6, 1) == math.inf
