"""What SentencePiece keeps of a text, the fixed ids, and what is refused."""

import pytest
from launching import refused

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import Tokenizer, train_tokenizer

PAIRS = grammar.pairs("train", size=200)
TEXTS = [text for pair in PAIRS for text in pair]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=800)


@pytest.fixture(scope="module")
def unnormalized():
    """tests/user_reports/test_text.py has what normalization does."""
    return train_tokenizer(TEXTS, vocab_size=800, normalization="none")


def round_trip(tokenizer, text):
    return tokenizer.decode(tokenizer.encode([text]))[0]


@pytest.mark.fast
@pytest.mark.parametrize(
    "text",
    [
        "我有一只猫。",
        "I have a cat.",
        "龘𠮷",  # in no training sentence
        "🐱👩‍👩‍👧 🇨🇳",
        "e\u0301 is not \u00e9",
        "！？，。：；（）【】“”",
        "ﬁ ½ ① Ⅷ ｶﾞ",  # what NFKC rewrites
        "a\tb\nc\x00d\x1b\x7f",
        "\u2028\u2029\u200b\u00a0\u3000x",
        "עברית العربية",
        "<s></s><unk><pad><0x0A>",
        "",
    ],
)
def test_text_comes_back_as_it_was(unnormalized, text):
    assert round_trip(unnormalized, text) == text


def test_every_training_sentence_comes_back(tokenizer):
    assert tokenizer.decode(tokenizer.encode(TEXTS)) == TEXTS


@pytest.mark.parametrize(
    ("text", "kept"),
    [("  a b", "a b"), ("a b  ", "a b"), ("a   b", "a b"), ("   ", ""), ("a▁b", "a b")],
)
def test_spaces_at_the_ends_go_and_runs_of_them_are_one(tokenizer, text, kept):
    """SentencePiece's own sign for a space is one, too."""
    assert round_trip(tokenizer, text) == kept


@pytest.mark.fast
def test_ids_are_those_of_the_configuration_and_nothing_is_unknown(tokenizer):
    assert (PAD_ID, UNK_ID, BOS_ID, EOS_ID) == (0, 1, 2, 3)
    assert tokenizer.vocabulary[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert tokenizer.vocab_size == 800
    every = "".join(chr(c) for c in range(1, 0x3000, 7)) + "龘🐱𠮷"
    assert all(EOS_ID < i < 800 for i in tokenizer.encode([every])[0])


def test_decoding_ends_at_eos_and_pieces_spell_the_text(tokenizer):
    (cat,) = tokenizer.encode(["一只猫"])
    rows = [[BOS_ID, *cat, EOS_ID, *cat], [*cat, EOS_ID, PAD_ID, PAD_ID], [EOS_ID, *cat]]
    assert tokenizer.decode(rows) == ["一只猫", "一只猫", ""]
    (text,) = tokenizer.decode([tokenizer.encode(["龘"])[0][:-1]])
    assert text.encode().decode() == text  # bytes that are no character: no lone surrogate
    assert "".join(tokenizer.pieces("I have a cat.")).replace("▁", " ").strip() == "I have a cat."


def test_training_is_deterministic_and_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    assert train_tokenizer(TEXTS, vocab_size=800).model == tokenizer.model
    path = tmp_path / "tokenizer.model"
    tokenizer.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.model"]
    loaded = Tokenizer.load(path)
    assert loaded.model == tokenizer.model
    assert loaded.encode(TEXTS) == tokenizer.encode(TEXTS)


# ---------------------------------------------------------------------------------------- refusals
def test_a_vocabulary_that_cannot_be_trained_is_refused_with_one_that_can():
    message = refused(train_tokenizer, TEXTS, vocab_size=123_457)
    assert "data.vocab_size=123457" in message
    largest = int(message.rstrip(".").split()[-1])
    assert train_tokenizer(TEXTS, vocab_size=largest).vocab_size == largest
    message = refused(train_tokenizer, TEXTS, vocab_size=17)
    assert "data.vocab_size=17" in message
    assert any(int(word) > 260 for word in message.replace(".", " ").split() if word.isdigit())
    assert "data.vocab_size=300" in refused(train_tokenizer, [], vocab_size=300)


def test_a_file_that_cannot_be_loaded_is_named(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.model"
    for content in (tokenizer.model[: len(tokenizer.model) // 2], b"\xff" * 99, b""):
        path.write_bytes(content)
        message = refused(Tokenizer.load, path)
        assert str(path) in message and "damaged" in message
    path.unlink()
    message = refused(Tokenizer.load, path)
    assert str(tmp_path) in message and "train there first" in message
    (tmp_path / "file").write_text("")
    assert "train there first" in refused(Tokenizer.load, tmp_path / "file" / path.name)
    assert "cannot be read" in refused(Tokenizer.load, tmp_path)
