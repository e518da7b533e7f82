"""How alike translations are: sacreBLEU's own sentence scores, of each against each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from transformer_jax.evaluation.utility import pairwise_bleu, pairwise_chrf

TEXTS = [
    "I have a cat.",
    "I have two cats.",
    "",
    "a",
    "  a  b ",
    "我有一只猫。",
    "I have a cat",
    "…",
]


def pairs(metric, texts):
    return [[metric.sentence_score(x, [y]).score for y in texts] for x in texts]


@pytest.mark.fast
@given(st.lists(st.text("ab 猫.", max_size=9), min_size=1, max_size=5))
def test_chrf_is_sacrebleus(texts):
    np.testing.assert_array_equal(pairwise_chrf(texts), pairs(CHRF(), texts))


@pytest.mark.fast
def test_both_utilities_of_real_text():
    found = pairwise_chrf(TEXTS)
    np.testing.assert_array_equal(found, pairs(CHRF(), TEXTS))
    assert found[0, 1] != found[1, 0], "rows are translations, columns references"
    for language, tokenizer in (("en", "13a"), ("zh", "zh")):
        found = pairwise_bleu(TEXTS, target_language=language)
        metric = BLEU(tokenize=tokenizer, effective_order=True)
        np.testing.assert_array_equal(found, pairs(metric, TEXTS))
