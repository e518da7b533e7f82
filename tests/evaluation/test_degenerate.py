"""Degenerate translations are found, and only they."""

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import tokenizers

from transformer_jax.config.options import Config, DataConfig
from transformer_jax.evaluation.degenerate import (
    Degeneracy,
    degeneracy_warnings,
    measure_degeneracy,
)
from transformer_jax.inference.translator import Hypothesis
from transformer_jax.modes import evaluate

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
    ("kind", "translations", "message"),
    [
        ("empty", ["", " \t", *GOOD[2:]], "1.8 % of the translations are empty"),
        ("empty", [""] * 109, "100.0 % of the translations are empty"),
        ("loops", ["a b a b a b a b", "c c c c", *GOOD[2:]], "1.8 % of the translations repeat"),
        ("copied", [*GOOD_SOURCES[:3], *GOOD[3:]], "2.8 % of the translations copy"),
        ("copied", GOOD_SOURCES, "100.0 % of the translations copy"),
        ("shared", [*["the same"] * 11, *GOOD[11:]], "10.1 % of the translations also translate"),
        ("shared", ["the same"] * 109, "100.0 % of the translations also translate"),
    ],
)
def test_each_kind_gives_its_own_warning(kind, translations, message):
    found = measure_degeneracy(GOOD_SOURCES, translations, GOOD)
    (warning,) = degeneracy_warnings(found)
    assert message in warning
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


def test_sharing_and_what_the_reference_does_are_counted_against_the_references():
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
    found = measure_degeneracy(["Ali", "x"], ["Ali", "x"], ["Ali", "y"])
    assert found == Degeneracy(empty=0, loops=0, copied=1 / 2, shared=0)
    assert measure_degeneracy(["x"], [" "], [" "]).empty == 0
    assert measure_degeneracy([], [], []) == Degeneracy(empty=0, loops=0, copied=0, shared=0)


def test_evaluating_logs_the_warnings(tmp_path, capsys):
    pairs = [f"{source}\t{target}\n" for source, target in zip(GOOD_SOURCES, GOOD, strict=True)]
    (tmp_path / "test.tsv").write_text("".join(pairs))
    config = Config(data=DataConfig(corpus="files", path=str(tmp_path), test="test.tsv"))
    config.data.target_language = "en"
    translations = [[Hypothesis("the same", -1.0, -1.0)]] * 108 + [[]]
    model = SimpleNamespace(
        config=config,
        workdirs=[tmp_path],
        steps=([3],),
        reverse=None,
        tokenizers=tokenizers(),
        hypotheses=lambda sources, n_best, progress: translations,
    )
    evaluate.evaluate(model, tmp_path, split="test", weights="latest")
    found = measure_degeneracy(GOOD_SOURCES, ["the same"] * 108 + [""], GOOD)
    assert degeneracy_warnings(found)
    record, *lines, words = capsys.readouterr().err.splitlines()
    assert "does not record its training text" in record
    assert "no scores by rare words" in words
    assert lines == [
        "1 sentences too long to translate count as empty translations",
        *degeneracy_warnings(found),
    ]
