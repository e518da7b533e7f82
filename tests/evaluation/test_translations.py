"""The files of an evaluation agree and keep their rows."""

import dataclasses
import json

import pytest

from transformer_jax.evaluation.scores import corpus_scores
from transformer_jax.evaluation.translations import side_by_side, write_translations

REFERENCES = [
    "I have a cat.",
    "She has three dogs.",
    "They went to Beijing by train yesterday evening.",
    "The red book is on the table.",
    "He works.",
]
SOURCES = ["我有\t一只猫", "a\r\nb", "一\u2028二\u0085三", '"quoted"', ""]
ODD = ["I have\ta cat", "line\nbreak", "\ttab first", '"', "  two  spaces "]


@pytest.mark.fast
def test_the_reports_files_agree(tmp_path):
    folder = tmp_path / "evaluation" / "test"
    scores = corpus_scores(ODD, REFERENCES, target_language="en", bootstrap=0)
    about = {"split": "test", "steps": [3, 5]}
    written = write_translations(folder, scores, SOURCES, ODD, REFERENCES, **about)
    assert sorted(p.name for p in folder.iterdir()) == [
        "scores.json", "translations.jsonl", "translations.tsv",
    ]  # fmt: skip

    table = (folder / "translations.tsv").read_text(encoding="utf-8")
    header, *lines = [line.split("\t") for line in table.splitlines()]  # U+2028 ends a line here
    assert header == ["source", "translation", "reference"]
    assert [len(line) for line in lines] == [3] * 5
    rows = list(zip(SOURCES, ODD, REFERENCES, strict=True))
    assert lines == [[" ".join(cell.split()) for cell in row] for row in rows]

    text = (folder / "translations.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.split("\n")[:-1]]
    assert [tuple(r.values()) for r in records] == rows, "nothing is lost here"
    assert "我有" in text

    result = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert result == about | dataclasses.asdict(scores) == written


def test_a_report_of_different_lengths_is_refused(tmp_path):
    scores = corpus_scores(ODD, REFERENCES, target_language="en", bootstrap=0)
    with pytest.raises(ValueError):
        write_translations(tmp_path, scores, SOURCES[:-1], ODD, REFERENCES)
    assert not list(tmp_path.iterdir())


def test_side_by_side_shows_the_reference_only_where_it_differs():
    assert side_by_side(["一", "二"], ["one", "too"], ["one", "two"]).splitlines() == [
        "  一", "    = one", "  二", "    ≠ too", "    reference: two",
    ]  # fmt: skip
