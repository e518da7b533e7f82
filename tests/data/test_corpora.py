"""Corpora: what each one contains, and what is refused."""

import gzip
import io
import random
import sys
import tempfile
import types
from collections import Counter

import pytest
from launching import refused

from transformer_jax.config.options import DataConfig
from transformer_jax.data import corpora, splitting
from transformer_jax.data import text as data_text
from transformer_jax.data.corpora import load_split, split_names
from transformer_jax.errors import UserError

SPLITS = ["train", "valid", "test"]


def write(folder, **files):
    """{"a_en": text or bytes} becomes a.en."""
    for name, content in files.items():
        content = content.encode() if isinstance(content, str) else content
        (folder / name.replace("_", ".")).write_bytes(content)


def file_config(folder, train, **options):
    given = {"valid": "v.tsv", "test": "v.tsv"} | options
    return DataConfig(corpus="files", path=str(folder), train=train, **given)


def read(folder, train, **options):
    return load_split(file_config(folder, train, **options), "train")


def refusal(data, split="train"):
    return refused(load_split, data, split)


def read_all(data):
    return {split: load_split(data, split).pairs for split in SPLITS}


def pretend(monkeypatch, module, **attributes):
    """Puts a stand-in of a package in its place; without attributes it cannot be imported."""
    stand_in = types.SimpleNamespace(**attributes) if attributes else None
    monkeypatch.setitem(sys.modules, module, stand_in)


def linked_pairs(count, sentences, seed=0):
    """Random pairs of few sentences, so that many share a side."""
    rng = random.Random(seed)
    return [(f"s{rng.randrange(sentences)}", f"t{rng.randrange(sentences)}") for _ in range(count)]


def assert_no_sentence_is_shared(parts):
    for side in (0, 1):
        owners = {}
        for name, pairs in parts.items():
            for pair in pairs:
                assert owners.setdefault(pair[side], name) == name, pair[side]


def flood(pairs):
    """The components of the graph of pairs, by repeated flooding: slow and independent."""
    left, components = set(range(len(pairs))), []
    while left:
        component = {left.pop()}
        grown = True
        while grown:
            sources = {pairs[i][0] for i in component}
            targets = {pairs[i][1] for i in component}
            near = {i for i in left if pairs[i][0] in sources or pairs[i][1] in targets}
            grown = bool(near)
            component |= near
            left -= near
        components.append(component)
    return components


# --------------------------------------------------------------------------------- splits, corpora
@pytest.mark.parametrize("corpus", ["small_world", "hsk", "files", "tfds:wmt14_translate/de-en"])
def test_split_names_and_an_unknown_split(corpus):
    data = DataConfig(corpus=corpus)
    names = [*SPLITS, "longer"] if corpus == "small_world" else SPLITS
    assert split_names(data) == names
    assert refusal(data, "tests") == (
        f"{corpus} has no split 'tests', only {', '.join(names)} (did you mean test?)"
    )


@pytest.mark.parametrize("corpus", ["small_wrld", "tfds", "tfds:", "hsk:1", ""])
def test_an_unknown_corpus_is_refused(corpus):
    message = refusal(DataConfig(corpus=corpus))
    assert message.startswith(f"data.corpus={corpus!r} is none of: small_world, hsk, files, tfds:")
    assert ("did you mean small_world?" in message) == (corpus == "small_wrld")


# ------------------------------------------------------------------------------------- small world
@pytest.fixture
def asked(monkeypatch):
    """The calls of the small world."""
    calls = []

    def pairs(split, *, size, seed=0):
        calls.append((split, size, seed))
        return [("猫", "cat"), ("狗", "dog")]

    pretend(monkeypatch, "transformer_jax.data.small_world.grammar", pairs=pairs)
    return calls


def test_small_world_sizes_its_one_seed_and_its_directions(asked):
    for split in [*SPLITS, "longer"]:
        assert load_split(DataConfig(), split).pairs == [("猫", "cat"), ("狗", "dog")]
    for size in ({"train_size": 7}, {"held_out_size": 5}):
        for split in ("train", "test"):
            load_split(DataConfig(**size), split)
    whole = [("train", 60_000), *((split, 1000) for split in ("valid", "test", "longer"))]
    part = [("train", 7), ("test", 1000), ("train", 60_000), ("test", 5)]
    assert asked == [(*call, 0) for call in whole + part]
    backward = DataConfig(source_language="en", target_language="zh")
    assert load_split(backward, "valid").pairs == [("cat", "猫"), ("dog", "狗")]
    assert "data.held_out_size=0 leaves no pairs" in refusal(DataConfig(held_out_size=0), "valid")


@pytest.mark.parametrize("corpus", ["small_world", "hsk"])
@pytest.mark.parametrize(("source", "target"), [("en", "de"), ("zh", "zh"), ("de", "fr")])
def test_other_languages_are_refused(corpus, source, target, monkeypatch):
    records = [record(f"句{i}", f"sentence {i}") for i in range(7)]
    pretend(monkeypatch, "hsk_sentences_audio", load_sentences=lambda: records)
    languages = {"source_language": source, "target_language": target}
    message = refusal(DataConfig(corpus=corpus, held_out_size=2, **languages))
    assert all(f"data.{name}={value!r}" in message for name, value in languages.items())


# ------------------------------------------------------------------------------------ groups apart
def hold_out(pairs, size, names):
    numbers = splitting.hold_out(pairs, size, names)
    return {name: [pairs[i] for i in part] for name, part in numbers.items()}


@pytest.mark.parametrize(("count", "sentences"), [(997, 1499), (997, 4001), (1999, 7001)])
def test_groups_stay_whole_and_nothing_is_lost(count, sentences):
    pairs = linked_pairs(count, sentences)
    parts = hold_out(pairs, 101, ["valid", "test"])
    assert_no_sentence_is_shared(parts)
    assert Counter(pairs) == Counter(pair for part in parts.values() for pair in part)
    owner = {pair: name for name, part in parts.items() for pair in part}
    groups = flood(pairs)
    assert max(map(len, groups)) > 3, "the test would be empty"
    for group in groups:
        assert len({owner[pairs[i]] for i in group}) == 1
    for name in ("valid", "test"):  # as asked, or a little over
        assert 101 <= len(parts[name]) < 101 + 10


def first_hold_out(pairs, size, names):
    """The first version, on strings and lists: workdirs were trained on what it held out."""
    parent = list(range(len(pairs)))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for side in (0, 1):
        first = {}
        for i, pair in enumerate(pairs):
            parent[root(i)] = root(first.setdefault(pair[side], i))
    groups = {}
    for i in range(len(pairs)):
        groups.setdefault(root(i), []).append(i)
    groups = list(groups.values())
    random.Random(0).shuffle(groups)
    remaining = iter(sorted(groups, key=lambda group: len(group) > max(1, size // 10)))
    parts = {}
    for name in names:
        part = parts[name] = []
        while len(part) < size and (group := next(remaining, None)):
            part += group
    return parts | {"train": sorted(i for group in remaining for i in group)}


@pytest.mark.parametrize("size", [0, 1, 13, 101])
@pytest.mark.parametrize("names", [["valid"], ["valid", "test"]])
def test_the_same_pairs_are_held_out_as_ever(size, names):
    for count, sentences in ((997, 1499), (997, 4001), (1999, 7001), (499, 10**9)):
        pairs = linked_pairs(count, sentences, seed=size)
        found = splitting.hold_out(pairs, size, names)
        assert {name: part.tolist() for name, part in found.items()} == first_hold_out(
            pairs, size, names
        )


def test_a_chain_of_pairs_is_a_group_and_one_group_cannot_be_split():
    pairs = linked_pairs(997, 89)
    assert len(flood(pairs)) == 1
    with pytest.raises(UserError, match=r"of 997 pairs, in 1 groups"):
        hold_out(pairs, 101, ["valid", "test"])
    # a1-x1, a1-x2, a2-x2, a2-x3, …: the first and the last have nothing in common but the chain.
    chain = [(f"a{(i + 1) // 2}", f"x{i // 2}") for i in range(41)]
    random.Random(5).shuffle(chain)
    others = [(f"s{i}", f"t{i}") for i in range(67)]
    parts = hold_out(chain + others, 23, ["valid", "test"])
    assert set(chain) <= set(parts["train"])
    assert [len(parts[name]) for name in ("valid", "test")] == [23, 23]


def test_a_large_group_is_trained_on():
    for size in (11, 13, 17, 31):
        pairs = [("Yes.", f"t{i}") for i in range(29)] + [(f"s{i}", f"u{i}") for i in range(79)]
        parts = hold_out(pairs, size, ["valid", "test"])
        assert {pair for pair in parts["train"] if pair[0] == "Yes."} == set(pairs[:29])


def test_held_out_pairs_are_spread_and_the_same_in_the_reverse_direction():
    pairs = [(f"s{i}", f"t{i}") for i in range(1009)]
    parts = hold_out(pairs, 101, ["valid"])
    places = [pairs.index(pair) for pair in parts["valid"]]
    assert places != sorted(places)
    assert 400 < sum(places[:50]) / 50 < 600
    assert parts["train"] == [pair for pair in pairs if pair not in set(parts["valid"])]
    pairs = linked_pairs(499, 1009)
    forward = hold_out(pairs, 53, ["valid", "test"])
    backward = hold_out([(t, s) for s, t in pairs], 53, ["valid", "test"])
    assert {n: [(s, t) for t, s in part] for n, part in backward.items()} == forward


# --------------------------------------------------------------------------------------------- hsk


def record(zh, en, *tokens):
    words = [{"word": word, "gloss_en": gloss} for word, gloss in tokens]
    return {"chinese": zh, "translation": {"en": en}, "tokens": words}


def test_hsk_glosses(monkeypatch):
    tokens = [
        ("老师", "teacher"),
        ("好", "good; appropriate; proper"),
        ("您", "you (courteous, as opposed to informal 你[ni3])"),
        ("老师", "teacher"),
        ("很", "very (a remark; (nested) too) much; quite"),
        ("了", "(completed action marker); (modal particle)"),
        ("哥", ""),
        ("个", "used in 自個兒|自个儿[zi4 ge3 r5]"),
        ("都", "surname Du"),
        ("姓名", "surname and given name"),
    ]
    records = [record(f"句{i}", f"sentence {i}", *tokens) for i in range(7)]
    pretend(monkeypatch, "hsk_sentences_audio", load_sentences=lambda: records)
    parts = read_all(DataConfig(corpus="hsk", held_out_size=2))
    assert [len(parts[split]) for split in SPLITS] == [3 + 5, 2, 2]
    assert parts["train"][3:] == [
        ("老师", "teacher"),
        ("好", "good"),
        ("您", "you"),
        ("很", "very much"),
        ("姓名", "surname and given name"),
    ]


def test_hsk_never_trains_on_a_gloss_that_is_a_held_out_sentence(monkeypatch):
    # Each sentence is also a word, in Chinese or in English: only those trained on may be glosses.
    chinese = [record(f" 词{i}", f"meaning {i}.", (f"词{i}", f"gloss {i}")) for i in range(11)]
    english = [record(f"字{i}。", f"word {i}", (f"字{i}", f"word {i}; it")) for i in range(11)]
    pretend(monkeypatch, "hsk_sentences_audio", load_sentences=lambda: chinese + english)
    parts = read_all(DataConfig(corpus="hsk", held_out_size=5))
    assert len(parts["train"]) == 2 * (22 - 10)
    assert_no_sentence_is_shared(parts)


def test_the_real_hsk():
    package = pytest.importorskip(
        "hsk_sentences_audio", reason="hsk-sentences-audio is not installed"
    )
    hsk = {"corpus": "hsk", "held_out_size": 300}
    parts = read_all(DataConfig(**hsk))
    records = [(r["chinese"], r["translation"]["en"]) for r in package.load_sentences()]
    sentences = {pair for pair in records if not pair[1].startswith("placeholder")}
    assert sum(pair in sentences for pair in records) == 4354 - 80
    assert load_split(DataConfig(**hsk), "train").empty == 80
    assert_no_sentence_is_shared(parts)
    for name in ("valid", "test"):
        assert 300 <= len(parts[name]) < 330
        assert set(parts[name]) <= sentences
    glosses = set(parts["train"]) - sentences
    assert ("老师", "teacher") in glosses
    assert 4500 < len(glosses) < 5340
    assert not any("(" in en or ";" in en or "placeholder" in en for _, en in glosses)
    assert len(parts["train"]) == 4274 - len(parts["valid"]) - len(parts["test"]) + len(glosses)
    backward = DataConfig(**hsk, source_language="en", target_language="zh")
    assert load_split(backward, "test").pairs == [(en, zh) for zh, en in parts["test"]]
    short = read_all(DataConfig(**hsk, train_size=17))
    assert (short["train"], short["test"]) == (parts["train"][:17], parts["test"])


@pytest.mark.parametrize(
    ("corpus", "package", "extra"),
    [
        ("hsk", "hsk_sentences_audio", "transformer_jax[hsk]"),
        ("tfds:wmt14_translate/de-en", "tensorflow_datasets", "transformer_jax[wmt]"),
    ],
)
def test_a_package_that_is_not_installed_is_named_by_its_extra(monkeypatch, corpus, package, extra):
    pretend(monkeypatch, package)
    assert extra in refusal(DataConfig(corpus=corpus))


# ------------------------------------------------------------------------------------------- files
def test_two_files_and_a_table_read_the_same(tmp_path):
    write(tmp_path, a_en=" a cat \ntwo\n\nfour\n", a_de="eine Katze\r\nzwei\r\ndrei\r\n \r\n")
    write(tmp_path, p_tsv="a cat\teine Katze\ntwo \t zwei\tCC BY #3\n\tdrei\n\n")
    expected = corpora.Corpus([("a cat", "eine Katze"), ("two", "zwei")], empty=2)
    assert read(tmp_path, "a.en,a.de") == expected
    assert read(tmp_path, " a.en , a.de ") == expected
    assert read(tmp_path, "p.tsv") == expected
    assert read("", f"{tmp_path}/a.en,{tmp_path}/a.de") == expected
    assert read("elsewhere", f"{tmp_path}/p.tsv") == expected
    assert read(tmp_path, "a.de,a.en").pairs == [(t, s) for s, t in expected.pairs]


def test_only_a_line_feed_ends_a_line_and_a_byte_order_mark_is_stripped(tmp_path):
    odd = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\rh"
    write(tmp_path, a_en=f"{odd}\none\n", a_de="eins\nzwei")
    assert read(tmp_path, "a.en,a.de").pairs == [(odd, "eins"), ("one", "zwei")]
    text = "\ufeffone\ntwo"
    write(tmp_path, a_en=text, b_gz=gzip.compress(text.encode()), a_de="eins\n\ufeffzwei\n")
    for train in ("a.en,a.de", "b.gz,a.de"):
        assert read(tmp_path, train).pairs == [("one", "eins"), ("two", "\ufeffzwei")]


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b" one \r\n\r\n\ntwo", [" one ", "", "", "two"]),
        (b"one\n\n", ["one", ""]),
    ],
)
def test_lines_are_split_as_they_are(content, lines):
    assert data_text.lines_of(io.BytesIO(content), "here") == lines


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"one\ntwo\nt\xffhree\nfour\n", 3),
        (b"\xef\xbb\xbfone\ntw\xe9", 2),
        ("caf\u00e9".encode("utf-16"), 1),
        (b"one\n\xed\xa0\x80\n", 2),
    ],
)
def test_a_line_that_is_not_utf8_is_named(tmp_path, content, line):
    write(tmp_path, a_en=content, a_de="eins\n")
    message = refusal(file_config(tmp_path, "a.en,a.de"))
    assert f"{tmp_path / 'a.en'}, line {line} is not UTF-8" in message


UNREADABLE = {
    "tran.en,p.tsv": "…/tran.en does not exist (did you mean train.en?)",
    "x/y/train.en,p.tsv": "…/x/y/train.en does not exist",
    "folder": "…/folder is a directory",
    "empty.de": "…/empty.de has no pairs (it is empty)",
    "three.en,p.tsv": "…/three.en has 4 lines, but …/p.tsv has 3: ",
    "train.en,empty.de": "…/train.en has 1 lines, but …/empty.de has 0: ",
    "p.tsv": "…/p.tsv, line 3 has no tab: give ",
    "train.en": "…/train.en, line 1 has no tab: give ",
    "cut.gz": "…/cut.gz cannot be read: ",
    "blank.de,blank.de": "…/blank.de with …/blank.de has no pairs (2 dropped: a side is blank)",
}


@pytest.mark.parametrize("train", UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path, train):
    write(tmp_path, train_en="one\n", empty_de="", blank_de=" \n\n", three_en="1\n2\n3\n4")
    write(tmp_path, p_tsv="one\teins\n\ntwo zwei\n", cut_gz=gzip.compress(b"one\teins\n")[:-9])
    (tmp_path / "folder").mkdir()
    message = refusal(file_config(tmp_path, train)).replace(str(tmp_path), "…")
    assert message.startswith(UNREADABLE[train])


@pytest.mark.parametrize("value", ["a.en,", ",a.de", "a.en,a.de,a.fr", ","])
def test_a_list_of_files_that_makes_no_sense_is_refused(value):
    message = refusal(DataConfig(corpus="files", train=value))
    assert message.startswith(f'data.train={value!r} must be "a.en,a.de"')


def test_no_training_file_is_refused_unless_it_is_not_needed(tmp_path):
    write(tmp_path, v_tsv="a\tb\n")
    data = file_config(tmp_path, "", test="")
    assert refusal(data).startswith("data.train is empty: give ")
    assert refusal(data, "test").startswith("data.test and data.train are empty: give ")
    assert load_split(data, "valid").pairs == [("a", "b")]


@pytest.mark.parametrize(("valid", "test"), [("", ""), ("v.tsv", ""), ("", "v.tsv")])
def test_missing_splits_are_held_out_of_the_training_file(tmp_path, valid, test):
    pairs = linked_pairs(997, 4001)
    write(tmp_path, p_tsv="".join(f"{s}\t{t}\n" for s, t in pairs) + "\n\n", v_tsv="a\tb\n")
    data = file_config(tmp_path, "p.tsv", valid=valid, test=test, held_out_size=53)
    assert [load_split(data, split).empty for split in SPLITS] == [2, 0, 0]
    parts = read_all(data)
    assert_no_sentence_is_shared(parts)
    for split, given in (("valid", valid), ("test", test)):
        assert parts[split] == [("a", "b")] if given else 53 <= len(parts[split]) < 58
    own = sum(len(part) for part in parts.values()) - bool(valid) - bool(test)
    assert own == len(pairs)


def test_train_size_keeps_the_first_pairs_and_the_same_held_out_ones(tmp_path):
    write(tmp_path, p_tsv="a\tb\na\tb\nc\td\n")
    assert read(tmp_path, "p.tsv").pairs == [("a", "b"), ("a", "b"), ("c", "d")]
    write(tmp_path, p_tsv="".join(f"s{i}\tt{i}\n" for i in range(101)))
    for valid in ("", "p.tsv"):
        options = {"valid": valid, "test": valid, "held_out_size": 11}
        whole = file_config(tmp_path, "p.tsv", **options)
        part = file_config(tmp_path, "p.tsv", train_size=13, **options)
        assert load_split(part, "train").pairs == load_split(whole, "train").pairs[:13]
        assert load_split(part, "valid") == load_split(whole, "valid")


def test_holding_out_too_much_or_nothing_is_refused(tmp_path):
    write(tmp_path, p_tsv="".join(f"s{i}\tt{i}\n" for i in range(101)))
    data = file_config(tmp_path, "p.tsv", valid="", test="", held_out_size=51)
    message = refusal(data)
    assert "data.held_out_size=51" in message and "101 pairs" in message
    for data.held_out_size, trained_on in ((50, 1), (0, 101)):
        assert len(load_split(data, "train").pairs) == trained_on
    assert refusal(data, "valid") == "data.held_out_size=0 leaves no pairs for valid: raise it"


# -------------------------------------------------------------------------------------------- tfds
@pytest.fixture
def tfds(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a dataset's folder stays there
    return pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")


def wmt14(source="de", target="en", **options):
    languages = {"source_language": source, "target_language": target}
    return DataConfig(corpus="tfds:wmt14_translate/de-en", **languages, **options)


@pytest.mark.fast
def test_tfds_in_both_directions(tfds):
    with tfds.testing.mock_data(num_examples=4):
        forward, backward = read_all(wmt14()), read_all(wmt14("en", "de"))
        records = tfds.data_source("wmt14_translate/de-en", split="train")
        expected = [(r["de"].strip(), r["en"].strip()) for r in records]
        message = refusal(wmt14("en", "fr"))
    assert forward["train"] == expected
    assert len(expected) == 4
    assert backward == {n: [(t, s) for s, t in part] for n, part in forward.items()}
    assert "'fr'" in message and "de, en" in message


def test_tfds_arguments_bytes_blanks_and_limit(tfds, monkeypatch, tmp_path):
    calls, read = [], []
    records = [{"en": f"cat {i}".encode(), "de": f"Kätzchen {i} ".encode()} for i in range(97)]
    records[1]["de"] = b" "

    def data_source(name, split, **options):
        calls.append((name, split, options["data_dir"]))
        assert options["builder_kwargs"] == {"file_format": "array_record"}
        return (read.append(record) or record for record in records)

    monkeypatch.setattr(tfds, "data_source", data_source)
    corpus = load_split(wmt14(train="train[:9%]", train_size=3, path=str(tmp_path)), "train")
    assert corpus.pairs == [(f"Kätzchen {i}", f"cat {i}") for i in (0, 2, 3)]
    assert corpus.empty == 1
    assert len(read) == 4, "no more than train_size needs"
    assert len(load_split(wmt14(train_size=3), "valid").pairs) == 96
    load_split(wmt14(test="test[1:]"), "test")
    places = [("train[:9%]", str(tmp_path)), ("validation", None), ("test[1:]", None)]
    assert calls == [("wmt14_translate/de-en", *place) for place in places]


def test_tfds_without_such_a_dataset_or_split(tfds, monkeypatch):
    message = refusal(DataConfig(corpus="tfds:wmt14_translat/de-en"))
    assert "wmt14_translat not found" in message

    def data_source(name, **options):
        raise ValueError("Unknown split 'validation'. Should be one of ['train'].\nMore")

    monkeypatch.setattr(tfds, "data_source", data_source)
    message = refusal(wmt14(), "valid")
    assert "data.valid='validation': Unknown split" in message
