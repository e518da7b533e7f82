"""Sampling: as many samples of a line as asked for, and another at each prompt."""

import builtins
import dataclasses

import pytest
from launching import in_process, refused
from toy import MODEL, VOCAB_SIZE, random_params, tokenizers

from transformer_jax.config.options import DecodeConfig
from transformer_jax.inference.trained import check_n_best
from transformer_jax.inference.translator import Translator
from transformer_jax.model.transformer import Transformer
from transformer_jax.modes import translate

DECODE = DecodeConfig(method="sample", extra_length=3, batch_size=5)
LINES = ["我有", "你", "他有书", "", "我有", "她", "人有大狗"]


@pytest.fixture(scope="module")
def params():
    return [random_params(Transformer(MODEL, VOCAB_SIZE), stddev=1.0)]


@pytest.fixture(scope="module")
def found(params):
    """The texts of five samples of each line."""
    return drawn(params)


def drawn(params, lines=LINES, samples=5, seed=0, **options):
    decode = dataclasses.replace(DECODE, **options)
    translator = Translator([Transformer(MODEL, VOCAB_SIZE)], tokenizers(), decode, seed=seed)
    rows = translator.translate(params, lines, n_best=samples)
    return [[h.text for h in row] for row in rows]


def test_a_line_has_as_many_samples_as_asked_for(params, found):
    assert [len(row) for row in found] == [5, 5, 5, 1, 5, 5, 5]
    assert len(set(found[6])) > 2, "they are drawn apart"
    assert found[0] != found[4], "and so are equal lines"
    # More samples do not change the first ones.
    assert [row[:1] for row in found] == drawn(params, samples=1)


def test_samples_depend_on_the_seed_and_the_line_alone(params, found):
    assert drawn(params, batch_size=2) == found
    assert drawn(params, LINES[:3]) == found[:3]
    other = drawn(params, seed=1)
    assert sum(a != b for a, b in zip(found, other, strict=True)) == 6


def test_greedy_search_has_one_translation():
    check_n_best(DECODE, 100)
    greedy = dataclasses.replace(DECODE, method="greedy")
    assert "set it to beam or sample" in refused(check_n_best, greedy, 2)


def test_the_launcher_samples(trained, tmp_path, capsys, monkeypatch):
    """Of a file; and at the prompt, where line k is sampled as in a file."""
    (tmp_path / "in").write_text("我有一只猫\n" * 3, encoding="utf-8")
    options = {"config.decode.method": "sample", "n_best": 4}

    def lines_of(**given):
        in_process("translate", trained[0], **options, **given)
        return capsys.readouterr().out.splitlines()

    written = lines_of(input=tmp_path / "in")
    assert [line.partition("\t")[0] for line in written] == [n for n in "123" for _ in range(4)]
    assert len({line.partition("\t")[2] for line in written}) > 8
    typed = iter(["我有一只猫"] * 3 + [""])
    monkeypatch.setattr(builtins, "input", lambda prompt: next(typed))
    monkeypatch.setattr(translate.sys.stdin, "isatty", lambda: True, raising=False)
    # Of other batches: the last digit of a score may differ.
    for line, other in zip(lines_of(), written, strict=True):
        (number, score, text), expected = line.split("\t"), other.split("\t")
        assert [number, text] == [expected[0], expected[2]]
        assert float(score) == pytest.approx(float(expected[1]), abs=1e-3)
