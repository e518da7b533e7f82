"""Several corpora: how they are named, read and tagged, and what an epoch draws of them."""

import gzip
import itertools
import re
import sys
import types
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import json_lines, refused, tiny_config
from toy import PAIRS, tokenizers

from transformer_jax import train
from transformer_jax.config import texts
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import OPTIONS, DataConfig
from transformer_jax.data import corpora, held_out, mixture
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.epochs import Epochs
from transformer_jax.data.packing import plan_packing
from transformer_jax.data.subword_dropout import SubwordDropout
from transformer_jax.data.tokenizer import train_tokenizers
from transformer_jax.data.tokens import tokenize_pairs
from transformer_jax.errors import UserError
from transformer_jax.modes import resume_proof
from transformer_jax.training import prepared

ROW_LENGTHS = {"source_row_length": 61, "target_row_length": 67}


def write(folder):
    """Three corpora of the small world: 211 + 101 + 61 pairs in a table, two files and a .gz."""
    lines = [f"{source}\t{target}" for source, target in PAIRS[:211]]
    (folder / "news.tsv").write_text("\n".join(lines), encoding="utf-8")
    for side, name in enumerate(("med.zh", "med.en")):
        text = "\n".join(pair[side] for pair in PAIRS[211:272])
        (folder / name).write_text(text, encoding="utf-8")
    more = [(f"{source}{source}", f"{target} {target}") for source, target in PAIRS[:101]]
    text = "\n".join(f"{source}\t{target}" for source, target in more)
    (folder / "web.tsv.gz").write_bytes(gzip.compress(text.encode()))


THREE = "news.tsv weight=2; med.zh,med.en tag=>>med<<; web.tsv.gz name=crawl weight=0.5"


def mixed(folder, value=THREE, **options):
    write(folder)
    given = {"held_out_size": 13, "vocab_size": 800} | options
    return DataConfig(corpus="files", path=str(folder), train=value, **given)


# ----------------------------------------------------------------------------------- how it is said
def test_a_mixture_survives_being_saved_and_a_weight_may_not_change():
    saved = texts.with_paths(THREE, "/there/{}".format)
    assert texts.paths(saved) == [f"/there/{n}" for n in texts.paths(THREE)]
    facts = [(t.label, t.weight, t.tag) for t in texts.parse(saved)]
    assert facts == [("news", 2.0, ""), ("med", 1.0, ">>med<<"), ("crawl", 0.5, "")]
    quoted = 'a.en,"b; x=1.de" weight=3; tfds:ted/ru_to_en split=train[:7%] tag=>>ted<<'
    assert texts.parse(texts.with_paths(quoted, str)) == texts.parse(quoted)
    allows = OPTIONS["data.train"].allows
    assert allows(THREE, saved, Change.ON_RESUME)
    for other in (THREE.replace("weight=2", "weight=3"), THREE.replace(">>med<<", ">>law<<")):
        assert not allows(THREE, texts.with_paths(other, "/b/{}".format), Change.ON_RESUME)


NONSENSE = {
    "a.tsv weight=0; b.tsv": "data.train: weight=0 of a.tsv must be a number above 0",
    "a.tsv weight=-1; b.tsv": "data.train: weight=-1 of a.tsv must be a number above 0",
    "a.tsv; b.tsv weight=nan": "data.train: weight=nan of b.tsv must be a number above 0",
    "a.tsv; b.tsv weight=inf": "data.train: weight=inf of b.tsv must be a number above 0",
    "a.tsv; b.tsv weight=two": "data.train: weight=two of b.tsv must be a number above 0",
    "a.tsv tag=<med>": "tag=<med> of a.tsv would be cut into pieces: a tag is one word between ",
    "b.tsv; a.tsv tag=>>a b<< weight=2": "tag=>>a b<< of a.tsv would be cut into pieces: a tag is "
    "one word between >> and <<, without white space, as >>a_b<<",
    "a.tsv tag=a b": "tag=a b of a.tsv would be cut",
    "a.tsv; b/a.tsv": "two corpora that are called a: add name=… to one",
    "a.tsv wieght=2": "name, weight, tag, split (did you mean weight?)",
    "a.tsv split=test": "split=test of a.tsv is for a dataset of TFDS: leave it out",
    "a.tsv; ,b.de": 'must be "a.en,a.de"',
    "a.tsv tag=>>m<< tag=>>n<<": "a.tsv tag=>>m<< has a second tag=>>n<<: keep one",
    "tfds:; a.tsv": "tfds: names no dataset",
    "news.tsv; empty.tsv": "empty.tsv has no pairs (it is empty)",
    "news.tsv; absent.tsv": "absent.tsv does not exist",
    " ;": "data.train: ' ;' names no file",
}


@pytest.mark.parametrize("value", NONSENSE)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path, value):
    data = mixed(tmp_path, value)
    (tmp_path / "empty.tsv").write_text("")
    assert NONSENSE[value] in refused(corpora.load_split, data, "train")


def test_only_training_text_has_weights_and_a_size_is_of_one_corpus(tmp_path):
    data = mixed(tmp_path, valid="news.tsv weight=2; med.zh,med.en")
    assert "data.valid has weight=2: only data.train has" in refused(
        corpora.load_split, data, "valid"
    )
    data = mixed(tmp_path, train_size=50)
    assert "data.train_size=50 is for one corpus" in refused(corpora.load_split, data, "train")


# ----------------------------------------------------------------------------------- what is read
def test_tables_files_compressed_text_and_tfds_mix(tmp_path, monkeypatch):
    records = [{"zh": "一", "en": b"one"}, {"zh": "二", "en": b"two"}]
    translate = types.SimpleNamespace()
    package = types.SimpleNamespace(
        data_source=lambda name, *, split, **_: [*records, (name, split)][:2], translate=translate
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", package)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.translate", translate)
    data = mixed(
        tmp_path, f"{THREE}; tfds:ted/zh_en tag=>>ted<<", held_out_size=0, valid="news.tsv"
    )
    data.test = "news.tsv; med.zh,med.en"
    corpus = corpora.load_split(data, "train")
    assert Counter(corpus.origins) == {"news": 211, "med": 61, "crawl": 101, "ted/zh_en": 2}
    assert corpus.pairs[-2:] == [(">>ted<< 一", "one"), (">>ted<< 二", "two")]
    assert corpus.pairs[211] == (f">>med<< {PAIRS[211][0]}", PAIRS[211][1])
    assert corpus.pairs[:211] == PAIRS[:211]
    assert Counter(corpora.load_split(data, "test").origins) == {"news": 211, "med": 61}


def test_held_out_pairs_know_their_corpus_and_share_no_sentence(tmp_path):
    data = mixed(tmp_path, THREE.replace("web.tsv.gz", "news.tsv"))  # a text twice, by two names
    splits = corpora.load_splits(data, ["train", "valid", "test"])
    owners = {}
    for name, corpus in splits.items():
        assert all((">>med<<" in s) == (o == "med") for (s, _), o in labelled(corpus))
        for _, target in corpus.pairs:
            assert owners.setdefault(target, name) == name
    assert splits["train"].origins == sorted(splits["train"].origins, key="newsmedcrawl".find)
    held_out.record(tmp_path, data, splits)
    again, _ = held_out.load_split([tmp_path], data, "valid")
    assert again == corpora.Corpus(splits["valid"].pairs, 0, splits["valid"].origins)


def test_a_tagged_sentence_is_the_sentence_without_its_tag(tmp_path):
    """Two corpora with the same sources, each with translations of its own."""
    sources = [f"第{number}句" for number in range(53)]
    for name in "ab":
        lines = [f"{source}\t{name} {number}\n" for number, source in enumerate(sources)]
        (tmp_path / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    data = mixed(tmp_path, "a.tsv; b.tsv tag=>>med<<", held_out_size=7)
    splits = corpora.load_splits(data, ["train", "valid", "test"])
    bare = {
        name: {source.removeprefix(">>med<< ") for source, _ in corpus.pairs}
        for name, corpus in splits.items()
    }
    assert not bare["train"] & bare["valid"] and not bare["train"] & bare["test"]
    held_out.record(tmp_path, data, splits)
    tagged = [(s, t) for s, t in splits["train"].pairs if s.startswith(">>med<<")]
    plain = [(source.removeprefix(">>med<< "), target) for source, target in tagged]
    for pairs in (tagged, plain):
        assert held_out.count_overlap(tmp_path, pairs) == 3 * (len(pairs),)


def labelled(corpus):
    return zip(corpus.pairs, corpus.origins, strict=True)


def test_a_tag_is_one_piece_though_few_sources_have_it(tmp_path):
    data = mixed(tmp_path)
    corpus = corpora.load_split(data, "train")
    found = prepared.new_tokenizers(data, corpus.pairs)
    (tagged,) = found.source.encode([">>med<< 我有一只猫"])
    (bare,) = found.source.encode(["我有一只猫"])
    assert found.source.vocabulary[tagged[0]] == ">>med<<" and tagged[1:] == bare
    # A tag before a code of a language: both are pieces.
    pairs = [(f">>bt<< >>fra<< {s}", t) for s, t in PAIRS[:99]]
    pairs += [(f">>fra<< {s}", t) for s, t in PAIRS[99:]]
    found = train_tokenizers(pairs, vocab_size=701, shared=True, tags=[">>bt<<"])
    assert set(found.source.codes) == {">>bt<<", ">>fra<<"}
    pieces = found.source.pieces(pairs[0][0])
    assert {">>bt<<", ">>fra<<"} <= set(pieces)


@pytest.mark.parametrize("option", ["train", "valid", "test"])
def test_a_tokenizer_that_would_cut_the_tag_is_refused(tmp_path, option):
    (tmp_path / "w").mkdir()
    tokenizers().save(tmp_path / "w")
    config = tiny_config({"data.vocab_size": 701})
    plain, tagged = "news.tsv", "med.zh,med.en tag=>>med<<"
    texts = {"value": plain, "valid": plain, "test": plain}
    texts["value" if option == "train" else option] = tagged
    config.data = mixed(tmp_path, vocab_size=701, **texts)
    message = refused(train, config, tmp_path / "w")
    assert f"would cut the tag >>med<< of data.{option} into pieces" in message


# -------------------------------------------------------------------------------------- the draws
SIZES = st.lists(st.integers(1, 97), min_size=1, max_size=4).map(
    lambda sizes: {f"c{i}": size for i, size in enumerate(sizes)}
)


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, temperature=st.sampled_from([0.0, 0.01, 1.0, 5.0]), data=st.data())
def test_the_shares_of_the_draw_match_the_weights(sizes, temperature, data):
    weights = {name: data.draw(st.floats(0.01, 100)) for name in sizes}
    total = sum(sizes.values())
    power = 1 / temperature if temperature else 0
    shares = {n: weights[n] * (sizes[n] / max(sizes.values())) ** power for n in sizes}
    exact = {name: total * share / sum(shares.values()) for name, share in shares.items()}
    try:
        counts = mixture.pairs_per_epoch(sizes, weights, temperature)
    except UserError as e:
        assert "has so small a share" in str(e) and min(exact.values()) < 1
    else:
        assert sum(counts.values()) == total and min(counts.values()) > 0
        assert counts == {name: pytest.approx(share, abs=1) for name, share in exact.items()}
    plain = mixture.pairs_per_epoch(sizes, dict.fromkeys(sizes, 3.0), 1.0)
    assert plain == sizes, "equal weights draw every pair once"


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 3), data=st.data())
def test_pairs_of_a_corpus_come_equally_often(sizes, seed, data):
    counts = {name: data.draw(st.integers(0, 3 * size)) for name, size in sizes.items()}
    seen, edges = Counter(), np.cumsum([0, *sizes.values()])
    for epoch in range(5):
        drawn = mixture.draw(sizes, counts, seed, epoch)
        assert drawn.tolist() == mixture.draw(sizes, counts, seed, epoch).tolist()
        seen.update(drawn.tolist())
        for (first, end), count in zip(itertools.pairwise(edges), counts.values(), strict=True):
            assert ((drawn >= first) & (drawn < end)).sum() == count
            times = [seen[n] for n in range(first, end)]
            assert max(times) - min(times) <= 1
            assert sum(times) == (epoch + 1) * count


def test_another_seed_or_epoch_is_another_draw():
    sizes, counts = {"a": 97, "b": 31}, {"a": 53, "b": 75}
    draws = [
        mixture.draw(sizes, counts, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)
    ]
    assert all(a != b for a, b in itertools.combinations(draws, 2))


def test_a_corpus_without_pairs_left_is_refused():
    message = refused(mixture.pairs_per_epoch, {"a": 5, "b": 0}, {"a": 1, "b": 1}, 1.0)
    assert message.startswith("the corpus b of data.train has no pairs to train on that fit")


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_batches_are_those_of_the_draw_for_any_number_of_processes(rate):
    pairs = PAIRS[:211]
    tokens = tokenize_pairs(pairs, tokenizers())
    sizes, counts = {"a": 150, "b": 61}, {"a": 50, "b": 161}
    dropout = SubwordDropout(tokenizers().source, rate) if rate else None

    def dataset():
        epochs = Epochs(
            tokens,
            draw=lambda epoch: mixture.draw(sizes, counts, 3, epoch),
            dropout=(dropout, dropout) if rate else None,
            seed=3,
            total_rows=10**6,
            **ROW_LENGTHS,
        )
        plan = plan_packing(tokens.source_lengths, tokens.target_lengths, **ROW_LENGTHS)
        return PackedDataset(tokens, plan, batch_rows=7, seed=3, epochs=epochs)

    data, seen = dataset(), Counter()
    for step in range(-(-data.epoch_rows // 7)):
        batch, rows = data.batch(step), data.batch_pairs(step)
        parts = [dataset().batch(step, part) for part in (range(2), range(2, 7))]
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), array)
        seen.update(np.concatenate(rows[: data.epoch_rows - step * 7]).tolist())
        for row, numbers in enumerate(rows):
            labels, segments = batch["labels"][row], batch["target_segments"][row]
            found = [labels[segments == n].tolist() for n in range(1, segments.max() + 1)]
            assert tokenizers().target.decode(found) == [pairs[n][1] for n in numbers]
    assert seen == Counter(mixture.draw(sizes, counts, 3, 0).tolist())


# --------------------------------------------------------------------------------------- training
def test_a_mixture_with_dropout_resumes_exactly_and_validates_each_corpus(tmp_path, capsys):
    found = train_tokenizers(PAIRS, vocab_size=701, shared=True, tags=[">>med<<"])
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        found.save(tmp_path / name)
    sizes = {"news": (0, 19), "med": (19, 28), "crawl": (28, 41)}
    for name, (first, end) in sizes.items():
        pairs = PAIRS[first:end]
        if name == "crawl":  # has pairs that no row holds, which are not drawn either
            pairs = pairs + [(99 * source, target) for source, target in PAIRS[41:48]]
        text = "\n".join(f"{source}\t{target}" for source, target in pairs)
        (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
    value = "news.tsv weight=0.3; med.tsv tag=>>med<<; crawl.tsv"
    config = tiny_config({"train.checkpoint_every": 3, "train.evaluate_every": 9})
    config.data.corpus, config.data.path, config.data.train = "files", str(tmp_path), value
    config.data.train_size, config.data.held_out_size, config.data.subword_dropout = 0, 5, 0.2
    config.train.steps = 9
    train(config, tmp_path / "whole")
    log = capsys.readouterr().err
    rows = int((tmp_path / "whole" / "epoch_rows.txt").read_text())
    assert rows % 4 and rows < 9 * 4, "the edge lies within a batch"
    counted = re.findall(r"training: (\w+): (\d+) pairs, (\d+) in each epoch", log)
    assert [name for name, *_ in counted] == [*sizes]
    ((fitting, too_long),) = re.findall(r"training: (\d+) pairs in .*; (\d+) pairs longer", log)
    assert int(too_long) > 1
    assert sum(int(n) for _, n, _ in counted) == sum(int(n) for *_, n in counted) == int(fitting)
    metrics = json_lines(tmp_path / "whole" / "metrics.jsonl")
    (valid,) = [row["valid"] for row in metrics if "valid" in row]
    own = [name.removeprefix("loss/") for name in valid if name.startswith("loss/")]
    assert len(own) > 1 and set(own) <= sizes.keys()
    losses = [valid[f"loss/{name}"] for name in own]
    assert min(losses) < valid["loss"] < max(losses)
    assert {name for name in valid if name.startswith("bleu/")} <= {f"bleu/{n}" for n in own}
    config.train.evaluate_every = 0
    for steps in (6, 9):
        config.train.steps = steps
        train(config, tmp_path / "parts")
    states = [resume_proof.last_state(tmp_path / name) for name in ("whole", "parts")]
    assert resume_proof.differing_arrays(*states) == []
