"""Scores by kind of sentence, with numbers made by hand."""

from collections import Counter

import hypothesis.strategies as st
import pytest
import sacrebleu
from hypothesis import given

from transformer_jax.data.corpora import Corpus
from transformer_jax.evaluation.bins import (
    CORPUS,
    RAREST_WORD,
    SOURCE_LENGTH,
    count_words,
    scores_by_kind,
    table,
)
from transformer_jax.inference.evaluate import TranslatedSplit
from transformer_jax.inference.translator import Hypothesis

# The words of each source, and the least count in training of a word of its reference.
ROWS = [
    ("a " * 9 + ".", "I have a red cat", "I have a red cat"),  # 10; "cat" 5
    ("a " * 11, "He sees a dog .", "He sees two dogs ."),  # 11; "dogs" 0
    ("b", "I have a cat.", "I have one cat."),  # 1; "one" 1
    ("a " * 51, "We have a cat here now .", "We have a cat here ."),  # 51; "here" 2
    ("a " * 30, "I have, I have.", "I have, I have."),  # 30; "," 20 of "have" 31, "I" 30
    ("a " * 21, "", "I"),  # 21; "I" 30
]
COUNTS = {"I": 30, "have": 31, "a": 40, "red": 7, "cat": 5, "one": 1, "He": 3, "sees": 3, "two": 9,
          "We": 6, "here": 2, ".": 90, ",": 20}  # fmt: skip
LANGUAGES = {"source_language": "de", "target_language": "en"}


def by_kind(**options):
    columns = [list(column) for column in zip(*ROWS, strict=True)]
    return scores_by_kind(*columns, **LANGUAGES, **options)


def expected(numbers):
    """The scores of some of the rows, as sacreBLEU computes them."""
    translations, references = zip(*(ROWS[n][1:] for n in numbers), strict=True)
    return (
        len(numbers),
        pytest.approx(sacrebleu.corpus_bleu(translations, [references]).score),
        pytest.approx(sacrebleu.corpus_chrf(translations, [references], word_order=2).score),
    )


def check(bins, members):
    assert [b.name for b in bins] == list(members)
    for b, numbers in zip(bins, members.values(), strict=True):
        assert (b.sentences, b.bleu, b.chrf) == expected(numbers), b.name


def test_a_tag_is_no_word_of_the_source():
    corpus = Corpus([(f">>med<< >>fra<< {ROWS[0][0]}", "I")], 0)
    split = TranslatedSplit(corpus, [[Hypothesis("I", 0.0, 0.0)]], "de", "en")
    (found,) = split.by_kind(None)[SOURCE_LENGTH]
    assert found.name == "1–10"


@pytest.mark.fast
def test_every_sentence_is_in_one_bin_of_each_kind():
    found = by_kind(trained_words=COUNTS, corpora=["x", "y", "x", "x", "x", "x"])
    assert list(found) == [SOURCE_LENGTH, RAREST_WORD, CORPUS]
    lengths = {"1–10": [0, 2], "11–20": [1], "21–30": [4, 5], "51 or more": [3]}
    check(found[SOURCE_LENGTH], lengths)
    counts = {"0": [1], "1": [2], "2–5": [0, 3], "6–20": [4], "21 or more": [5]}
    check(found[RAREST_WORD], counts)
    check(found[CORPUS], {"x": [0, 2, 3, 4, 5], "y": [1]})


@pytest.mark.fast
def test_what_is_not_known_has_no_bins():
    assert list(by_kind()) == [SOURCE_LENGTH]
    assert list(by_kind(corpora=["x"] * 6)) == [SOURCE_LENGTH], "one corpus is the whole"
    lines = table(by_kind(trained_words={})).split("\n")
    assert [line.split()[:3] for line in lines[-2:]] == [
        ["training", "count", "of"],
        ["0", "6", f"{expected(range(6))[1].expected:.1f}"],
    ]


@pytest.mark.fast
def test_a_word_is_what_bleu_counts():
    assert count_words(["I have cats.", "cats, cats"], "en") == {
        "I": 1, "have": 1, "cats": 3, ".": 1, ",": 1,
    }  # fmt: skip
    assert count_words(["我有猫。"], "zh") == {"我": 1, "有": 1, "猫": 1, "。": 1}
    (length,) = scores_by_kind(
        ["我有一只猫和两只狗在家。"], ["x"], ["x"], source_language="zh", target_language="en"
    )[SOURCE_LENGTH]
    assert (length.name, length.sentences) == ("11–20", 1)


@given(st.lists(st.lists(st.text('a5.,-&;"$ \xa0ampquot<', max_size=7), max_size=5), max_size=3))
def test_words_are_counted_as_bleu_cuts_whole_texts(rows):
    texts = [" ".join(row) for row in rows]
    cut = sacrebleu.BLEU(tokenize="13a").tokenizer
    assert count_words(texts, "en") == Counter(word for text in texts for word in cut(text).split())
