"""Scores equal sacrebleu's own; the language decides what BLEU counts."""

import sys

import pytest
import sacrebleu

from transformer_jax.evaluation.paper_bleu import paper_bleu
from transformer_jax.evaluation.scores import corpus_bleu, corpus_scores

TRANSLATIONS = [
    "I have a cat.",
    "She has two dogs.",
    "They went to Beijing by train yesterday.",
    "The book on the table is red.",
    "",
]
REFERENCES = [
    "I have a cat.",
    "She has three dogs.",
    "They went to Beijing by train yesterday evening.",
    "The red book is on the table.",
    "He works.",
]
ZH_TRANSLATIONS = ["我有一只猫。", "她昨天在学校看了三本书。"]
ZH_REFERENCES = ["我有一只猫。", "她昨天在学校看了两本书。"]


@pytest.mark.fast
def test_scores_are_sacrebleus():
    scores = corpus_scores(TRANSLATIONS, REFERENCES, target_language="en", bootstrap=0)
    assert scores.bleu == sacrebleu.corpus_bleu(TRANSLATIONS, [REFERENCES]).score
    assert 0 < scores.bleu < 100
    assert scores.chrf == sacrebleu.corpus_chrf(TRANSLATIONS, [REFERENCES], word_order=2).score
    assert corpus_bleu(TRANSLATIONS, REFERENCES, target_language="en") == scores.bleu
    assert scores.sentences == 5
    assert scores.exact_match == 1 / 5


def test_a_perfect_translation_and_exact_match():
    scores = corpus_scores(REFERENCES, REFERENCES, target_language="en", bootstrap=0)
    assert scores.bleu == pytest.approx(100)
    assert scores.chrf == pytest.approx(100)
    assert scores.exact_match == 1
    scores = corpus_scores(
        ["a b", "a b ", "A b", "a b"], ["a b"] * 4, target_language="en", bootstrap=0
    )
    assert scores.exact_match == 2 / 4


@pytest.mark.parametrize(("language", "tokenizer"), [("zh", "zh"), ("ja", "char"), ("de", "13a")])
def test_the_language_chooses_sacrebleus_tokenizer(language, tokenizer):
    scores = corpus_scores(ZH_TRANSLATIONS, ZH_REFERENCES, target_language=language, bootstrap=0)
    by_hand = sacrebleu.corpus_bleu(ZH_TRANSLATIONS, [ZH_REFERENCES], tokenize=tokenizer)
    assert scores.bleu == by_hand.score
    assert f"tok:{tokenizer}" in scores.bleu_signature
    assert corpus_bleu(ZH_TRANSLATIONS, ZH_REFERENCES, target_language=language) == scores.bleu


def test_chinese_is_not_taken_for_one_word():
    as_zh, as_other = (
        corpus_bleu(ZH_TRANSLATIONS, ZH_REFERENCES, target_language=language)
        for language in ("zh", "en")
    )
    assert 50 < as_zh < 100
    assert abs(as_zh - as_other) > 5


@pytest.mark.fast
def test_intervals_are_there_when_asked_for():
    many = TRANSLATIONS * 7, REFERENCES * 7
    without = corpus_scores(*many, target_language="en", bootstrap=0)
    assert without.bleu_interval == without.chrf_interval == 0
    with_them = corpus_scores(*many, target_language="en", bootstrap=101)
    assert 0 < with_them.bleu_interval < 50
    assert 0 < with_them.chrf_interval < 50
    assert with_them.bleu == without.bleu, "not the mean of the resamples"
    assert "bs:101" in with_them.bleu_signature
    again = corpus_scores(*many, target_language="en", bootstrap=101)
    assert again == with_them
    # Some resamples' chrF is then a float, some a float32: sacrebleu refuses to average them.
    translations = ["I have no dog", *["x y z w"] * 6]
    scores = corpus_scores(translations, ["I have a cat"] * 7, target_language="en", bootstrap=101)
    assert 0 < scores.chrf < 20
    assert scores.chrf_interval > 0


def test_different_numbers_of_sentences_are_refused():
    with pytest.raises((ValueError, EOFError)):
        corpus_scores(TRANSLATIONS[:-1], REFERENCES, target_language="en", bootstrap=0)


def test_printed_scores_name_what_they_are():
    printed = str(corpus_scores(TRANSLATIONS, REFERENCES, target_language="en", bootstrap=3))
    assert "20.0 % of 5 sentences" in printed
    assert "tok:13a" in printed
    assert len(printed.splitlines()) == 3


NEWSTEST = ["Gutach: Noch mehr Sicherheit für Fußgänger", *["Wir lesen den Rich-Text hier."] * 3002]


@pytest.mark.parametrize(
    ("language", "references", "given"),
    [
        ("de", NEWSTEST, True),
        ("German", NEWSTEST, True),
        ("de", NEWSTEST[1:], False),
        ("de", NEWSTEST[:5], False),
        ("en", NEWSTEST, False),
    ],
)
def test_the_papers_bleu_is_given_and_printed_for_its_test_set_alone(language, references, given):
    translations = ["Wir lesen den Rich-Text."] * len(references)
    scores = corpus_scores(translations, references, target_language=language, bootstrap=0)
    lines = str(scores).splitlines()
    if given:
        assert scores.paper_bleu == paper_bleu(translations, references)
        assert scores.paper_bleu != scores.bleu
        assert lines[3].startswith(f"paper BLEU   {scores.paper_bleu:.1f}   tokenised, compound-")
    else:
        assert scores.paper_bleu is None
        assert len(lines) == 3


def test_without_sacremoses_there_is_no_paper_bleu(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sacremoses", None)  # importing it raises
    scores = corpus_scores(NEWSTEST, NEWSTEST, target_language="de", bootstrap=0)
    assert scores.paper_bleu is None
    assert scores.bleu == pytest.approx(100)
    error = capsys.readouterr().err
    assert error == "no paper BLEU without sacremoses: pip install 'transformer_jax[de]'\n"
