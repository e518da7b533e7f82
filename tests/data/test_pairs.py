"""Text that training reads: kept on the disk, read once, and recognised by its bytes."""

import json
import os
import tracemalloc

import pytest
from launching import refused, tiny_config

from transformer_jax.data import corpora, text_record, tokenizer
from transformer_jax.data import pairs as data_pairs
from transformer_jax.data.pairs import Pairs
from transformer_jax.data.small_world import grammar
from transformer_jax.training.run import train

PAIRS = grammar.pairs("train", size=211)
# Tabs, line ends and empty sides are text as any other.
ODD = [("a\tb", "c\n"), ("", "猫"), ("é", ""), ("", ""), ("\u2028", "😀\r")] * 7


@pytest.fixture(params=[1, 3, 10_000])
def chunk(request, monkeypatch):
    monkeypatch.setattr(data_pairs, "_CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("expected", [ODD, PAIRS, []], ids=["odd", "usual", "none"])
def test_pairs_on_the_disk_are_a_sequence_of_the_pairs(expected):
    pairs = Pairs(iter(expected))
    assert list(pairs) == expected and pairs == expected and len(pairs) == len(expected)
    for part in (slice(5), slice(3, 31, 7), slice(-2, None), slice(None, None, -1)):
        assert pairs[part] == expected[part]
    for index in range(-len(expected), len(expected)):
        assert pairs[index] == expected[index]
    numbers = [17, 3, 4, 5, 33] if expected else []
    part = pairs.part(numbers) if expected else pairs
    assert list(part) == [expected[n] for n in numbers]
    assert part[1:3] == [expected[n] for n in numbers][1:3]
    assert pairs != [*expected, ("a", "b")] and pairs != "text"
    with pytest.raises(IndexError):
        pairs[len(expected)]


def test_a_disk_without_room_is_named(monkeypatch):
    class Full:
        def write(self, content):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(data_pairs.tempfile, "TemporaryFile", Full)
    message = refused(Pairs, PAIRS)
    assert "No space left on device" in message and "set TMPDIR" in message


def test_reading_and_holding_out_take_few_bytes_a_pair(tmp_path, monkeypatch):
    """As strings in a list, these pairs would take more than 300 bytes each."""

    def peak(count):
        lines = (f"the source {n * n}, with some words\tits target {n}\n" for n in range(count))
        (tmp_path / "p.tsv").write_text("".join(lines))
        data = tiny_config().data
        data.corpus, data.train, data.train_size = "files", str(tmp_path / "p.tsv"), 0
        tracemalloc.start()
        splits = corpora.load_splits(data, ["train", "valid", "test"])
        assert sum(len(split.pairs) for split in splits.values()) == count
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(data_pairs, "_CHUNK", 97)
    few, many = peak(2003), peak(10_007)
    assert (many - few) / (10_007 - 2003) < 100


# --------------------------------------------------------------------------------- the vocabulary
def test_of_a_large_text_a_sample_shapes_the_vocabulary(monkeypatch, capsys):
    options = {"vocab_size": 701, "shared": True}
    whole = tokenizer.train_tokenizers(PAIRS, **options).source.model
    monkeypatch.setattr(tokenizer, "_LEARNED", len(PAIRS))
    assert tokenizer.train_tokenizers(Pairs(PAIRS), **options).source.model == whole
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(tokenizer, "_LEARNED", 199)
    samples = [tokenizer.train_tokenizers(PAIRS, **options).source.model for _ in range(2)]
    assert samples[0] == samples[1] != whole
    assert "199 of 211 pairs, at random, shape the vocabulary" in capsys.readouterr().err


def test_a_code_is_a_piece_though_no_sampled_source_has_it(monkeypatch):
    pairs = [(f">>fra<< {s}", t) for s, t in PAIRS[1:]]
    pairs.insert(101, (f">>deu<< {PAIRS[0][0]}", PAIRS[0][1]))
    monkeypatch.setattr(tokenizer, "_chosen", lambda count: bytes([1] * 99 + [0] * (count - 99)))
    found = tokenizer.train_tokenizers(pairs, vocab_size=701, shared=False)
    assert set(found.source.codes) == {">>deu<<", ">>fra<<"}


# ----------------------------------------------------------------------------------- the next start
NEWS, WEB = PAIRS[:101], PAIRS[101:]


def write(path, pairs):
    path.write_text("".join(f"{s}\t{t}\n" for s, t in pairs), encoding="utf-8")


@pytest.fixture
def config(tmp_path):
    """A mixture, so that the record has counts; it is trained for one more step each time."""
    write(tmp_path / "news.tsv", [*NEWS, ("", "blank")])
    write(tmp_path / "web.tsv", WEB)
    made = tiny_config({"train.steps": 0, "train.checkpoint_every": 1, "train.evaluate_every": 0})
    made.data.corpus, made.data.path = "files", str(tmp_path)
    made.data.train = "news.tsv weight=3; web.tsv"
    made.data.train_size, made.data.held_out_size, made.data.vocab_size = 0, 11, 701
    return made


@pytest.fixture
def start(config, tmp_path, monkeypatch, capsys):
    """Trains one more step; returns how often the training text was read, and the log."""
    reads, read = [], corpora._read_files
    monkeypatch.setattr(corpora, "_read_files", lambda paths: reads.append(paths) or read(paths))

    def one_more_step():
        reads.clear()
        capsys.readouterr()
        config.train.steps += 1
        train(config, tmp_path / "run")
        return len(reads), capsys.readouterr().err

    return one_more_step


def about_the_text(log):
    return [line for line in log.splitlines() if line.startswith("training: ")]


def test_text_is_read_once_and_not_by_a_start_that_has_its_tokens(start, tmp_path):
    reads, first = start()
    assert reads == 2 and "1 pairs with an empty side left out" in first
    assert "training: news: 94 pairs" in first, "counts are of what is left to train on"
    reads, second = start()
    assert reads == 0 and about_the_text(second) == about_the_text(first)
    for tokens in (tmp_path / "run/tokens").rglob("source.npy"):
        tokens.write_bytes(tokens.read_bytes()[:-1])
    reads, third = start()
    assert reads == 2 and about_the_text(third) == about_the_text(first)
    assert start()[0] == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", None])
def test_a_record_that_is_damaged_or_of_another_text_is_none(tmp_path, content):
    record = text_record.TextRecord("raw", "hash", 2, {"news": 7})
    text_record.save(tmp_path, record)
    assert text_record.load(tmp_path, "raw") == record
    assert text_record.load(tmp_path, "other") is text_record.load(tmp_path, "") is None
    (path,) = tmp_path.iterdir()
    path.unlink() if content is None else path.write_bytes(content)
    assert text_record.load(tmp_path, "raw") is None
    text_record.save(tmp_path / "no folder", record._replace(raw_hash=""))


def test_a_changed_text_is_noticed_though_its_size_and_time_are_the_same(start, tmp_path):
    start()
    path = tmp_path / "web.tsv"
    known = path.stat()
    write(path, [*WEB[1:], WEB[0]])
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (known.st_size, known.st_mtime_ns)
    assert "the training text is not the one that" in refused(start)
    path.unlink()
    assert "web.tsv does not exist" in refused(start)
    write(path, WEB)
    assert start()[0] == 0


def test_a_record_is_of_these_options_and_this_tokenizer(config, tmp_path, start):
    start()
    tokenizers = tokenizer.Tokenizers.load(tmp_path / "run")
    record = json.loads((tmp_path / "run/tokens/training_text.json").read_text())
    assert text_record.raw_hash(config.data, tokenizers) == record["raw_hash"]
    other = tokenizer.train_tokenizers(PAIRS, vocab_size=691, shared=True)
    assert text_record.raw_hash(config.data, other) != record["raw_hash"]
    config.data.held_out_size += 1
    assert text_record.raw_hash(config.data, tokenizers) != record["raw_hash"]
    for train_text in ("news.tsv; tfds:ted/zh_en", "missing.tsv"):
        config.data.train = train_text
        assert text_record.raw_hash(config.data, tokenizers) == ""
