"""Scores are sacrebleu's own; the report's files agree and keep their rows."""

import dataclasses
import itertools
import json

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.data.corpora import Corpus
from transformer_jax.evaluation.degenerate import (
    Degeneracy,
    degeneracy_warnings,
    measure_degeneracy,
)
from transformer_jax.evaluation.paper_bleu import paper_bleu
from transformer_jax.evaluation.scores import (
    corpus_bleu,
    corpus_scores,
    is_mistaken_for_words,
    side_by_side,
    write_translations,
)
from transformer_jax.inference.evaluate import TranslatedSplit
from transformer_jax.modes.evaluate import log_warnings

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


# ------------------------------------------------------------------------------------------ scores
@pytest.mark.fast
def test_scores_are_sacrebleus():
    scores = corpus_scores(TRANSLATIONS, REFERENCES, target_language="en", bootstrap=0)
    assert scores.bleu == sacrebleu.corpus_bleu(TRANSLATIONS, [REFERENCES]).score
    assert 0 < scores.bleu < 100
    assert scores.chrf == sacrebleu.corpus_chrf(TRANSLATIONS, [REFERENCES], word_order=2).score
    assert corpus_bleu(TRANSLATIONS, REFERENCES, target_language="en") == scores.bleu
    assert scores.sentences == 5
    assert scores.exact_match == 1 / 5


def test_a_perfect_translation():
    scores = corpus_scores(REFERENCES, REFERENCES, target_language="en", bootstrap=0)
    assert scores.bleu == pytest.approx(100)
    assert scores.chrf == pytest.approx(100)
    assert scores.exact_match == 1


def test_exact_match_is_of_the_very_string():
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


def test_intervals_when_hardly_anything_matches():
    """Some resamples' chrF is then a float, some a float32: sacrebleu refuses to average them."""
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


@pytest.mark.parametrize(
    ("language", "german"), [("de", True), ("de_AT", True), ("en", False), ("zh", False)]
)
def test_the_papers_bleu_is_given_and_printed_for_german_alone(language, german):
    translations = ["Wir lesen den Rich-Text."]
    references = ["Wir lesen den Rich-Text hier."]
    scores = corpus_scores(translations, references, target_language=language, bootstrap=0)
    lines = str(scores).splitlines()
    if german:
        assert scores.paper_bleu == paper_bleu(translations, references)
        assert scores.paper_bleu != scores.bleu
        assert lines[3].startswith(f"paper BLEU   {scores.paper_bleu:.1f}   tokenised, compound-")
    else:
        assert scores.paper_bleu is None
        assert len(lines) == 3


# -------------------------------------------------------------------------------------- degeneracy
WORDS = [f"{letter}{number}" for letter in "abcdefghijk" for number in range(10)]
GOOD_SOURCES = [f"quelle {a} {b}" for a, b in itertools.pairwise(WORDS)]
GOOD = [f"source {a} {b}" for a, b in itertools.pairwise(WORDS)]
LINES = st.lists(
    st.tuples(st.text("ab我 -", max_size=9), st.text("ab我 -", max_size=19)), max_size=7
)


@given(LINES)
def test_a_perfect_translation_is_never_warned_about(pairs):
    sources, references = [s for s, _ in pairs], [r for _, r in pairs]
    found = measure_degeneracy(sources, references, references)
    assert found == Degeneracy(empty=0, loops=0, copied=0, shared=0)
    assert degeneracy_warnings(found) == []


@pytest.mark.parametrize(
    ("kind", "translations", "says"),
    [
        ("empty", ["", " \t", *GOOD[2:]], "1.8 % of the translations are empty"),
        ("empty", [""] * 109, "100.0 % of the translations are empty"),
        ("loops", ["a b a b a b a b", "c c c c", *GOOD[2:]], "1.8 % of the translations repeat"),
        ("copied", [*GOOD_SOURCES[:3], *GOOD[3:]], "2.8 % of the translations copy"),
        ("copied", GOOD_SOURCES, "100.0 % of the translations copy"),
        ("shared", [*["the same"] * 11, *GOOD[11:]], "10.1 % of the translations are those of"),
        ("shared", ["the same"] * 109, "100.0 % of the translations are those of"),
    ],
)
def test_each_kind_is_told_apart_and_warned_about(kind, translations, says):
    found = measure_degeneracy(GOOD_SOURCES, translations, GOOD)
    (warning,) = degeneracy_warnings(found)
    assert says in warning
    assert [name for name, share in dataclasses.asdict(found).items() if share] == [kind]


def test_a_few_of_each_are_usual():
    translations = ["", "a a a a", *GOOD_SOURCES[2:4], *["the same"] * 10, *GOOD[14:]]
    found = measure_degeneracy(GOOD_SOURCES, translations, GOOD)
    assert found == Degeneracy(empty=1 / 109, loops=1 / 109, copied=2 / 109, shared=10 / 109)
    assert degeneracy_warnings(found) == []


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("no no no", False),
        ("well no no no no", True),
        ("to be to be to be to", False),
        ("is to be to be to be to be", True),
        ("a b c a b c a b c a b c", True),
        ("a b c d a b c d a b c d a b c d", True),
        ("a b c d e a b c d e a b c d e a b c d e", False),
        ("aaaa", False),
        ("他很很很好", False),
        ("他很很很很好", True),
        ("他说，他说，他说，他说，", True),
        ("ばばばば", True),
    ],
)
def test_what_a_loop_is(text, loops):
    assert measure_degeneracy(["x"], [text], ["y"]).loops == loops
    assert measure_degeneracy(["x"], [text], [text]).loops == 0, "the reference has it too"
    assert measure_degeneracy(["x"], [text], ["no no no no"]).loops == 0


@given(st.lists(st.sampled_from("ab"), max_size=23))
def test_loops_are_those_found_by_cutting_out_every_piece(units):
    pieces = [(units[i : i + n], units[i : i + 4 * n]) for n in range(1, 5) for i in range(23)]
    by_hand = any(len(piece) and piece * 4 == four for piece, four in pieces)
    assert measure_degeneracy(["x"], [" ".join(units)], ["y"]).loops == by_hand


def test_sharing_is_counted_against_the_references():
    sources = ["一", "二", "三", "三", "四"]
    # "one" stands for 一 and 二; "three" for 三 alone, though twice.
    translations = ["one", "one", "three", "three", "four"]
    unlike = ["one", "two", "three", "three", "four"]
    alike = ["1", "1", "3", "3", "4"]
    assert measure_degeneracy(sources, translations, unlike).shared == 2 / 5
    assert measure_degeneracy(sources, translations, alike).shared == 0
    assert measure_degeneracy(["三"] * 2, ["three"] * 2, ["three", "3"]).shared == 0, "one source"
    assert measure_degeneracy(sources, unlike, alike).shared == 0, "never less than none"
    assert measure_degeneracy(sources, [""] * 5, unlike).shared == 0, "those are empty"


def test_what_the_reference_does_is_no_fault():
    found = measure_degeneracy(["Ali", "x"], ["Ali", "x"], ["Ali", "y"])
    assert found == Degeneracy(empty=0, loops=0, copied=1 / 2, shared=0)
    assert measure_degeneracy(["x"], [" "], [" "]).empty == 0
    assert measure_degeneracy([], [], []) == Degeneracy(empty=0, loops=0, copied=0, shared=0)


def test_evaluating_says_the_warnings(capsys):
    found = measure_degeneracy(GOOD_SOURCES, ["the same"] * 109, GOOD)
    corpus = Corpus(list(zip(GOOD_SOURCES, GOOD, strict=True)), 0)
    log_warnings(TranslatedSplit(corpus, [[None]] * 109, "en"), found)
    assert capsys.readouterr().err.splitlines() == degeneracy_warnings(found)
    assert degeneracy_warnings(found)


# ------------------------------------------------------------------------------------------ report
SOURCES = ["我有\t一只猫", "a\r\nb", "一\u2028二\u0085三", '"quoted"', ""]
ODD = ["I have\ta cat", "line\nbreak", "\ttab first", '"', "  two  spaces "]


@pytest.mark.fast
def test_the_reports_files_agree(tmp_path):
    folder = tmp_path / "evaluation" / "test"
    scores = corpus_scores(ODD, REFERENCES, target_language="en", bootstrap=0)
    write_translations(folder, scores, SOURCES, ODD, REFERENCES, split="test", steps=[3, 5])
    assert sorted(p.name for p in folder.iterdir()) == [
        "scores.json", "translations.jsonl", "translations.tsv",
    ]  # fmt: skip

    table = (folder / "translations.tsv").read_text(encoding="utf-8")
    header, *lines = [line.split("\t") for line in table.splitlines()]  # U+2028 ends a line here
    assert header == ["source", "translation", "reference"]
    assert [len(line) for line in lines] == [3] * 5
    rows = list(zip(SOURCES, ODD, REFERENCES, strict=True))
    assert lines == [[" ".join(cell.split()) for cell in row] for row in rows]

    written = (folder / "translations.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in written.split("\n")[:-1]]
    assert [tuple(r.values()) for r in records] == rows, "nothing is lost here"
    assert "我有" in written

    result = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    about = {"split": "test", "steps": [3, 5]}
    assert result == about | dataclasses.asdict(scores)


def test_a_report_of_different_lengths_is_refused(tmp_path):
    scores = corpus_scores(ODD, REFERENCES, target_language="en", bootstrap=0)
    with pytest.raises(ValueError):
        write_translations(tmp_path, scores, SOURCES[:-1], ODD, REFERENCES)
    assert not list(tmp_path.iterdir())


def test_side_by_side_shows_the_reference_only_where_it_differs():
    assert side_by_side(["一", "二"], ["one", "too"], ["one", "two"]).splitlines() == [
        "  一", "    = one", "  二", "    ≠ too", "    reference: two",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("references", "language", "mistaken"),
    [
        (["我有一只猫。", "他是老师。"], "target", True),
        (["我有一只猫。", "他是老师。"], "zh", False),
        (["我有一只猫。", "他是老师。"], "zh_TW", False),
        (["I have a cat.", "猫 means cat.", "He is a teacher."], "en", False),
    ],
)
def test_chinese_references_under_the_wrong_tokenizer(references, language, mistaken):
    assert is_mistaken_for_words(references, language) == mistaken
