"""Text as users of other toolkits reported it: each kind of report is a small test."""

import io

import pytest
import sentencepiece
from launching import in_process

import transformer_jax as tj
from transformer_jax.config.options import DataConfig
from transformer_jax.data import corpora
from transformer_jax.data.small_world import grammar
from transformer_jax.data.text import is_blank
from transformer_jax.data.tokenizer import Tokenizer, train_tokenizer

TEXTS = [text for pair in grammar.pairs("train", size=101) for text in pair]
# A space of each width, line ends, controls, zero-width characters, marks of direction, fillers.
INVISIBLE = ["", " ", "\t", *"\xa0\u1680\u2003\u202f\u3000\u2028\x85\x07\x7f\u200b\u200c\u200d"]
INVISIBLE += [*"\ufeff\xad\u2060\u180e\u200e\u202e\u2066\u3164\u2800\ufe0f\U000e0020"]
INVISIBLE += [" \u200b\xa0\ufeff\xad "]
VISIBLE = ["a", ".", "猫", "\u200b猫", "\u0301", "👩\u200d💻", "نمی\u200cخواهم", "\ufffd", "\ud800"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=701)


@pytest.fixture(scope="module")
def imported_tokenizer():
    """One with SentencePiece's own rules and another program's ids, as imported models have."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=331, minloglevel=2
    )
    return Tokenizer(model.getvalue(), ["</s>", "<unk>", "<pad>", ">>fra<<", "▁", "▁a"])


# ----------------------------------------------------------------------------------- invisible text
@pytest.mark.parametrize("text", INVISIBLE, ids=ascii)
def test_invisible_text_is_blank_and_has_no_pieces(tokenizer, imported_tokenizer, text):
    assert is_blank(text)
    assert tokenizer.encode([text]) == imported_tokenizer.encode([text]) == [[]]
    assert imported_tokenizer.encode([f">>fra<<{text}"]) == [[]]


@pytest.mark.parametrize("text", VISIBLE, ids=ascii)
def test_visible_text_is_not_blank(tokenizer, text):
    assert not is_blank(text)
    assert tokenizer.encode([text]) != [[]]


def test_invisible_lines_are_translated_into_nothing(workdir, tmp_path):
    lines = [text for text in INVISIBLE if "\r" not in text]
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    in_process("translate", workdir, input=tmp_path / "in", output=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "\n" * len(lines)


def test_an_invisible_side_is_scored_as_an_empty_one(workdir):
    model = tj.load(workdir)
    empty = model.score(["猫", ""], ["", "a cat"])
    for text in "\u200b", "\ufeff\xa0":
        assert model.score(["猫", text], [text, "a cat"]) == empty


def test_an_invisible_line_ends_the_prompt(workdir, tmp_path, monkeypatch, capsys):
    typed = iter(["\ufeff", "我有一只猫"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    in_process("translate", workdir)
    assert capsys.readouterr().out == ""
    assert next(typed) == "我有一只猫"


@pytest.mark.parametrize("form", ["two files", "one file"])
def test_pairs_with_an_invisible_side_are_not_trained_on(tmp_path, form):
    pairs = [("a cat", "eine Katze"), ("\u200b", "ein Hund"), ("a dog", "\xad"), ("\ufeff", "")]
    files = {"a.en": [s for s, _ in pairs], "a.de": [t for _, t in pairs]}
    if form == "one file":
        files = {"a.tsv": [*("\t".join(pair) for pair in pairs[:-1]), "\u200b"]}
    for name, lines in files.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    names = ",".join(str(tmp_path / name) for name in files)
    data = DataConfig(corpus="files", train=names, valid=names, test=names)
    corpus = corpora.load_split(data, "train")
    assert (corpus.pairs, corpus.empty) == (pairs[:1], 3)
