"""Text as users of other toolkits reported it: each kind of report is a small test."""

import bz2
import functools
import gzip
import io
import lzma
import sys
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from launching import in_process, refused

import transformer_jax as tj
from transformer_jax.config.options import DataConfig
from transformer_jax.data import corpora, word_vectors
from transformer_jax.data.compression import compressor, decompressed
from transformer_jax.data.normalization import normalize, rules
from transformer_jax.data.small_world import grammar
from transformer_jax.data.text import is_blank, lines_of, read_lines
from transformer_jax.data.tokenizer import Tokenizer, train_tokenizer
from transformer_jax.evaluation.degenerate import measure_degeneracy
from transformer_jax.inference.evaluate import TranslatedSplit
from transformer_jax.modes.evaluate import log_warnings

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


# ---------------------------------------------------------------------------------- look-alike text
def words_with(change):
    return [(text, change(text)) for text in TEXTS if change(text) != text]


LOOK_ALIKES = {
    "no-break space": words_with(lambda text: text.replace(" ", "\xa0")),
    "narrow no-break space": words_with(lambda text: text.replace(" ", "\u202f", 1)),
    "ideographic space": words_with(lambda text: text.replace(" ", "\u3000")),
    "tab": words_with(lambda text: text.replace(" ", "\t")),
    "several spaces": words_with(lambda text: text.replace(" ", " \u2009 ")),
    "byte order mark": words_with(lambda text: f"\ufeff{text}"),
    "soft hyphens": words_with("\xad".join),
    "zero-width spaces": words_with("\u200b".join),
    "word joiner": words_with("\u2060".join),
    "non-joiner": [(text, "\u200c".join(text)) for text in TEXTS if text.isascii()],
    "control characters": words_with(lambda text: f"\x07{text}\x1b\x7f\x9f"),
    "marks of direction": words_with(lambda text: f"\u202a{text}\u202c\u200e"),
    "decomposed": [
        ("fünf Cafés, Ångström, 한국어", "fu\u0308nf Cafe\u0301s, \u212bngstro\u0308m, 한국어")
    ],
    "marks in another order": [("ậ q\u0323\u0307", "a\u0302\u0323 q\u0307\u0323")],
    "split by a zero-width space": [("é", "e\u200b\u0301")],
}


@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_text_that_looks_alike_has_the_same_pieces(tokenizer, kind):
    alike = LOOK_ALIKES[kind]
    assert alike
    assert tokenizer.encode([b for _, b in alike]) == tokenizer.encode([a for a, _ in alike])
    assert [tokenizer.pieces(b) for _, b in alike] == [tokenizer.pieces(a) for a, _ in alike]


@pytest.mark.parametrize(
    "text",
    [
        "！？，。：；（）【】“”",  # what NFKC rewrites
        "ﬁ ½ ① Ⅷ ｶﾞ ﾡ",
        "नमस्‍ते क्‌ष",  # joiners that are seen
        "می\u200cخواهم",
        "👩\u200d👩\u200d👧 ❤\ufe0f 🏴\U000e0067\U000e0062\U000e007f",
        "<s></s><unk><0x0A> \ufffd",
    ],
)
def test_text_that_looks_different_stays_as_it_is(tokenizer, text):
    text = unicodedata.normalize("NFC", text)
    assert normalize(text) == text
    assert tokenizer.decode(tokenizer.encode([text])) == [text]


ANY_TEXT = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("ae q.\u0301\u0302\u0307\u0308\u0323ậế가각\u1100\u1161\u11a8▁▅\r\n\t\x00"),
        st.sampled_from("\u200b\u200c\u200d\ufeff\xad\xa0\u3000\ufe0f\u034fनم👩\u212a\u212b\ud800"),
    )
)


@pytest.mark.fast
@given(ANY_TEXT)
def test_any_text_comes_back_normalized(tokenizer, text):
    normalized = normalize(text)
    assert normalize(normalized) == normalized
    assert unicodedata.is_normalized("NFC", normalized)
    ids = tokenizer.encode([text])
    assert tokenizer.encode([normalized]) == ids
    assert tokenizer.decode(ids) == ["" if is_blank(text) else normalized]


@pytest.mark.fast
@given(ANY_TEXT, st.data())
def test_any_look_alike_has_the_same_pieces(tokenizer, text, data):
    insert = st.sampled_from(["", "", "\u200b", "\ufeff", "\xad", "\u2060", "\x07", "\u200e"])
    space = st.sampled_from(" \t\xa0\u2003\u3000\u2028")
    text = "".join(c for c in text if c not in "\u200c\u200d")
    other = "".join(
        (data.draw(space) if c.isspace() else c) + data.draw(insert)
        for c in unicodedata.normalize(data.draw(st.sampled_from(["NFC", "NFD"])), text)
    )
    assert tokenizer.encode([other]) == tokenizer.encode([text])


def test_the_rules_are_part_of_the_model(tokenizer):
    """So that what reads tokenizer.model alone cuts look-alike text alike."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    for source, target in rules().items():
        assert normalize(f"猫{source}猫") == f"猫{target}猫".replace("  ", " ")
        assert processor.normalize(f"猫{source}猫") == f"▁猫{target.replace(' ', '▁')}猫"
    for kind in "no-break space", "byte order mark", "soft hyphens", "decomposed", "tab":
        for a, b in LOOK_ALIKES[kind]:
            assert processor.encode(b) == processor.encode(a)


def test_an_imported_tokenizer_and_an_old_one_keep_their_rules(imported_tokenizer):
    old = train_tokenizer(TEXTS, vocab_size=701, normalization="none")
    assert old.decode(old.encode(["a\xa0b\u200b e\u0301"])) == ["a\xa0b\u200b e\u0301"]
    assert imported_tokenizer.normalized("a\xa0b") == "a\xa0b"


def test_normal_text_has_the_pieces_that_it_had(tokenizer):
    old = train_tokenizer(TEXTS, vocab_size=701, normalization="none")
    assert old.vocabulary == tokenizer.vocabulary
    assert old.encode(TEXTS) == tokenizer.encode(TEXTS)


def test_references_that_no_translation_can_equal_are_counted(tokenizer, capsys):
    pairs = [("猫", "a cat"), ("猫", "a\xa0cat"), ("猫", "a cafe\u0301"), ("猫", "a\u200b")]
    found = TranslatedSplit(corpora.Corpus(pairs, 0), [[]] * 4, "zh", "en")
    log_warnings(found, measure_degeneracy(["猫"], ["a"], ["a"]), tokenizer)
    assert "3 references have characters that the model does not write" in capsys.readouterr().err


def test_no_translation_changes_with_a_no_break_space_or_a_byte_order_mark(workdir):
    model = tj.load(workdir)
    lines = [text for text in TEXTS if " " in text][:23]
    expected = model.translate(lines)
    assert len(set(expected)) > len(lines) // 2
    assert model.translate([line.replace(" ", "\xa0", 1) for line in lines]) == expected
    assert model.translate([f"\ufeff{line}" for line in lines]) == expected


# --------------------------------------------------------------- options that only a library has
@pytest.mark.parametrize("size", [1, 17, 260, 99_991])
@pytest.mark.parametrize("texts", [TEXTS, ["a"], ["猫狗"] * 3], ids=["many", "a letter", "two"])
def test_a_vocabulary_that_does_not_fit_is_refused_with_one_that_does(texts, size):
    message = refused(train_tokenizer, texts, vocab_size=size)
    assert message.startswith(f"data.vocab_size={size} is too "), message
    assert "--" not in message and "character_coverage" not in message
    fits = int(message.split()[-1])
    assert train_tokenizer(texts, vocab_size=fits).vocab_size == fits


@pytest.mark.parametrize("unlearnable", ["a" * 10_001, "é" * 5001, "a ▅"])
def test_lines_that_shape_no_vocabulary_are_counted(capsys, unlearnable):
    train_tokenizer([*TEXTS, unlearnable, unlearnable], vocab_size=701)
    assert "2 lines" in capsys.readouterr().err
    message = refused(train_tokenizer, [unlearnable], vocab_size=701)
    assert "data.vocab_size=701" in message and "10,000 bytes" in message and ".cc" not in message


# ---------------------------------------------------------------------------------- compressed text
def zstd(content):
    return pytest.importorskip("zstandard").compress(content)


COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
COMPRESS["lzma"] = functools.partial(lzma.compress, format=lzma.FORMAT_ALONE)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("name", ["text", "text.txt", "text.gz"])
def test_compressed_text_is_known_by_its_first_bytes(tmp_path, kind, name):
    streams = COMPRESS[kind]("\ufeffein\nzwei\n".encode()) + COMPRESS[kind](b"\ndrei")
    (tmp_path / name).write_bytes(streams)
    assert read_lines(tmp_path / name) == ["ein", "zwei", "", "drei"]
    assert lines_of(io.BytesIO(streams), "standard input") == ["ein", "zwei", "", "drei"]
    for damaged in streams[:-9], streams[:25] + bytes(9) + streams[34:]:
        (tmp_path / name).write_bytes(damaged)
        assert "cannot be read" in refused(read_lines, tmp_path / name)


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_text_is_read_as_it_is_needed(kind):
    """And not as a whole, however large it is."""
    lines = np.random.default_rng(0).bytes(2_000_003).hex().encode()
    packed = io.BytesIO(COMPRESS[kind](b"first\n" + lines))
    text = decompressed(packed, "here")
    assert text.readline() == b"first\n"
    assert packed.tell() < len(packed.getvalue()) / 3


@pytest.mark.parametrize("text", ["plain", "BZh is an acronym", "PK", "é", ""])
def test_text_that_is_not_compressed_is_read_whatever_its_name(tmp_path, text):
    (tmp_path / "text.gz").write_text(text, encoding="utf-8")
    assert read_lines(tmp_path / "text.gz") == ([text] if text else [])


def test_an_archive_is_not_a_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.en", "w") as archive:
        archive.writestr("a.en", "one\n")
    assert "is an archive (zip)" in refused(read_lines, tmp_path / "a.en")
    with tarfile.open(tmp_path / "a.de", "w:xz") as archive:
        archive.add(tmp_path / "a.en")
    assert "is an archive (tar)" in refused(read_lines, tmp_path / "a.de")


def test_a_format_without_its_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    (tmp_path / "a.en").write_bytes(b"\x28\xb5\x2f\xfd")
    assert "a.en is zstd, which needs: pip install zstandard" in refused(
        read_lines, tmp_path / "a.en"
    )
    assert "pip install zstandard" in refused(compressor, "out.zst")


@pytest.mark.parametrize("name", ["out.zip", "out.de.TGZ", "out.lzma"])
def test_a_compressed_output_that_cannot_be_written_is_refused(name):
    assert "choose .gz, .bz2, .xz or .zst" in refused(compressor, name)


@pytest.mark.parametrize("kind", ["gz", "GZ", "bz2", "xz", "zst"])
def test_translations_are_compressed_by_the_name_of_the_output(workdir, tmp_path, kind):
    compress = COMPRESS[kind.lower()]
    (tmp_path / "in").write_bytes(compress("我有一只猫\n猫\n".encode()))
    for name in "out", f"out.{kind}":
        in_process("translate", workdir, input=tmp_path / "in", output=tmp_path / name)
    packed = (tmp_path / f"out.{kind}").read_bytes()
    assert packed != (tmp_path / "out").read_bytes()
    assert decompressed(io.BytesIO(packed), "out").read() == (tmp_path / "out").read_bytes()


def test_word_vectors_are_known_by_their_first_bytes(tmp_path):
    (tmp_path / "vectors").write_bytes(bz2.compress(b"cat 1 2 3\n"))
    vectors, found = word_vectors.load(tmp_path / "vectors", ["cat"], dimension=3)
    assert vectors.tolist() == [[1, 2, 3]] and found.tolist() == [True]


# --------------------------------------------------------------------------------- carriage returns
def test_lines_that_end_in_carriage_returns_alone_are_refused_with_counts(tmp_path):
    (tmp_path / "a.en").write_bytes(b"one\rtwo\rthree\r" * 577)
    message = refused(read_lines, tmp_path / "a.en")
    assert "a.en is one line with 1,731 carriage returns" in message
    assert "standard input is one line with 2 " in refused(
        lines_of, io.BytesIO(b"a\rb\rc"), "standard input"
    )


@pytest.mark.parametrize("content", [b"one\r\ntwo\r\n", b"one\r\ntwo\r", b"on\re\ntwo\n"])
def test_other_carriage_returns_are_read(content):
    assert len(lines_of(io.BytesIO(content), "here")) == 2
