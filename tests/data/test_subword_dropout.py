"""BPE-dropout: other pieces of the same text in each epoch, as a function of (seed, epoch)."""

import io
import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import ROOT, refused, tiny_config
from toy import PAIRS, tokenizers

from transformer_jax import train
from transformer_jax.config.options import EOS_ID
from transformer_jax.data import corpora
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.epochs import Epochs
from transformer_jax.data.packing import plan_packing
from transformer_jax.data.subword_dropout import SubwordDropout
from transformer_jax.data.tokenizer import Tokenizer, train_tokenizer, train_tokenizers
from transformer_jax.data.tokens import tokenize_pairs
from transformer_jax.modes import resume_proof
from transformer_jax.parallel.devices import choose_devices
from transformer_jax.training.prepared import prepare

ROW_LENGTHS = {"source_row_length": 61, "target_row_length": 67}


def cut(tokenizer, texts, rate, seed=0):
    """The pieces of each text, <eos> included, without and with dropout."""
    whole = [[*ids, EOS_ID] for ids in tokenizer.encode(texts)]
    offsets = np.cumsum([0, *map(len, whole)])
    flat = np.array([*itertools.chain(*whole)], np.int32)
    tokens, ends = SubwordDropout(tokenizer, rate)(flat, offsets, np.random.default_rng(seed))
    assert tokens.dtype == np.int32 and len(ends) == len(texts) + 1
    return whole, [tokens[a:b].tolist() for a, b in itertools.pairwise(ends)]


def words(text):
    return [tokenizers().source.vocabulary[i] for i in text]


TEXTS = st.lists(
    st.one_of(
        st.text(max_size=41),
        st.lists(st.sampled_from(" ".join(itertools.chain(*PAIRS[:97])).split()), max_size=13).map(
            " ".join
        ),
    ),
    max_size=7,
)


@settings(max_examples=100, deadline=None)
@given(texts=TEXTS, rate=st.sampled_from([0.1, 0.5, 0.99]), seed=st.integers(0, 3))
def test_dropout_cuts_the_same_text_into_other_pieces(texts, rate, seed):
    tokenizer = tokenizers().source
    whole, pieces = cut(tokenizer, texts, rate, seed)
    assert tokenizer.decode(pieces) == tokenizer.decode(whole)
    for before, now in zip(whole, pieces, strict=True):
        assert "".join(words(before)) == "".join(words(now))
        assert now[-1] == EOS_ID and len(now) >= len(before) / 2
    assert pieces == cut(tokenizer, texts, rate, seed)[1]


@settings(max_examples=100, deadline=None)
@given(texts=TEXTS)
def test_without_dropout_the_pieces_are_those_of_sentencepiece(texts):
    whole, pieces = cut(tokenizers().source, texts, 0.0)
    assert pieces == whole


def test_the_rate_is_the_probability_to_leave_out_a_merge():
    """The odds in closed form, for a word of three characters and two merges in a row."""
    tokenizer = train_tokenizer(["ab"] * 50, vocab_size=260 + 3 + 2)
    vocabulary, rate, count = tokenizer.vocabulary, 0.3, 20_011
    first, second = (piece for piece in vocabulary[260:] if len(piece) > 1)
    assert first in ("ab", "▁a") and second == "▁ab"
    _, pieces = cut(tokenizer, ["ab"] * count, rate, seed=5)
    shares = Counter(len(ids) - 1 for ids in pieces)
    expected = {3: rate, 2: (1 - rate) * rate, 1: (1 - rate) ** 2}
    for length, share in expected.items():
        assert shares[length] / count == pytest.approx(share, abs=4 * 0.5 / count**0.5)


def test_codes_and_bytes_stay_whole():
    pairs = [(f">>fra<< {source}", target) for source, target in PAIRS]
    tokenizer = train_tokenizers(pairs, vocab_size=701, shared=False).source
    vocabulary = tokenizer.vocabulary
    (whole,), (pieces,) = cut(tokenizer, [">>fra<< 我有🐱"], 0.99)
    assert vocabulary[pieces[0]] == ">>fra<<"
    found = [[vocabulary[i] for i in ids if "<0x" in vocabulary[i]] for ids in (whole, pieces)]
    assert found[0] == found[1] and len(found[0]) == 4


def test_only_byte_pair_encoding_has_dropout():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for pair in PAIRS for text in pair),
        model_writer=model,
        model_type="unigram",
        vocab_size=701,
        minloglevel=2,
    )
    message = refused(SubwordDropout, Tokenizer(model.getvalue()), 0.1)
    assert "the tokenizer is a unigram model: set data.subword_dropout to 0" in message


# ---------------------------------------------------------------------------------------- epochs
def dataset(batch_rows=7, rate=0.3, seed=3, rows=0, pairs=PAIRS[:199]):
    tokens = tokenize_pairs(pairs, tokenizers())
    dropout = SubwordDropout(tokenizers().source, rate)
    given = {"seed": seed, "total_rows": 10**6, "rows": rows, **ROW_LENGTHS}
    epochs = Epochs(tokens, dropout=(dropout, dropout), **given)
    plan = plan_packing(tokens.source_lengths, tokens.target_lengths, **ROW_LENGTHS)
    return PackedDataset(tokens, plan, batch_rows=batch_rows, seed=seed, epochs=epochs)


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for name, array in batch.items():
        np.testing.assert_array_equal(array, other[name])


def test_epochs_have_other_pieces_of_the_same_pairs_and_as_many_rows():
    data = dataset()
    plain, found = {}, []
    for number in range(3):
        epoch = data.epoch(number)
        assert len(epoch.rows) == data.epoch_rows
        found.append(epoch.pairs.source.tolist())
        texts = tokenizers().target.decode(
            np.split(epoch.pairs.target, epoch.pairs.target_offsets[1:-1])
        )
        plain[number] = texts
        for row in epoch.rows:
            assert 0 < epoch.pairs.source_lengths[row].sum() <= ROW_LENGTHS["source_row_length"]
            assert 0 < epoch.pairs.target_lengths[row].sum() <= ROW_LENGTHS["target_row_length"]
        used = Counter(np.concatenate(epoch.rows).tolist())
        assert len(used) > 180 and max(used.values()) <= 2
    assert plain[0] == plain[1] == plain[2] == [target for _, target in PAIRS[:199]]
    assert found[0] != found[1] != found[2]


@pytest.mark.parametrize("rows", [5, 997])
def test_a_longer_epoch_loses_rows_and_a_shorter_one_repeats_some(rows):
    data, whole = dataset(rows=rows), dataset()
    found = [row.tolist() for row in data.epoch(1).rows]
    expected = [row.tolist() for row in plan_of(whole.epoch(1).pairs).epoch(3, 1)]
    assert found == [*itertools.islice(itertools.cycle(expected), rows)]


def plan_of(tokens):
    return plan_packing(tokens.source_lengths, tokens.target_lengths, **ROW_LENGTHS)


@pytest.mark.parametrize("batch_rows", [7, 211])
def test_a_batch_is_a_function_of_its_step_for_any_process_and_resume(batch_rows):
    data, steps = dataset(batch_rows), 29 if batch_rows == 7 else 3
    rows = data.epoch_rows
    assert steps * batch_rows > 2 * rows, "to cross two epochs"
    batches = [data.batch(step) for step in range(steps)]
    resumed = dataset(batch_rows, rows=rows)
    for step in (steps - 1, 1, steps // 2):  # forth and back
        assert_same(resumed.batch(step), batches[step])
    parts = [
        dataset(batch_rows).batch(steps - 2, part) for part in (range(3), range(3, batch_rows))
    ]
    for name, array in batches[steps - 2].items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), array)
    assert_same(
        dataset(batch_rows, seed=4, rows=rows).batch(1),
        dataset(batch_rows, seed=4, rows=rows).batch(1),
    )
    assert (dataset(batch_rows, seed=4).batch(1)["labels"] != batches[1]["labels"]).any()


def test_another_process_cuts_the_same_pieces(capsys):
    program = """
import sys
sys.path[:0] = ["tests", "tests/data"]
from test_subword_dropout import dataset
for step in (0, 9): print(dataset().batch(step)["labels"].tolist())
"""
    exec(program, {})
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT
    )
    assert done.stdout.decode() == capsys.readouterr().out


def test_tokens_seen_and_the_pairs_of_a_row_follow_the_epochs():
    data = dataset()
    step = data.epoch_rows // 7
    assert (step + 1) * 7 > data.epoch_rows >= step * 7
    real = [
        [int((batch[side] != 0).sum()) for side in ("source_segments", "target_segments")]
        for batch in map(data.batch, range(step))
    ]
    assert data.tokens_seen(step) == tuple(np.sum(real, axis=0))
    assert len(data.batch_pairs(step)) == 7


def test_an_error_in_the_background_is_raised_where_the_epoch_is_used():
    data = dataset()
    data.epoch(0)
    row_lengths = {"source_row_length": 2, "target_row_length": 2}
    tokens, dropout = data.pairs, SubwordDropout(tokenizers().source, 0.9)
    assert "fits in rows of 2 and 2 tokens" in refused(
        Epochs(tokens, dropout=(dropout, dropout), seed=0, total_rows=99, rows=5, **row_lengths), 3
    )


# --------------------------------------------------------------------------------------- training
def test_a_resumed_run_equals_the_uninterrupted_one_over_the_edges_of_epochs(tmp_path, monkeypatch):
    config = tiny_config({"data.subword_dropout": 0.2, "data.train_size": 31})
    config.train.checkpoint_every, config.train.evaluate_every = 3, 0
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        tokenizers().save(tmp_path / name)
    config.train.steps = 9
    train(config, tmp_path / "whole")
    rows = int((tmp_path / "whole" / "epoch_rows.txt").read_text())
    assert rows % 4 and 2 * rows < 9 * 4, "the edges lie within batches"
    made, make = [], Epochs._make
    monkeypatch.setattr(Epochs, "_make", lambda self, n: made.append(n) or make(self, n))
    for steps in (3, 6, 9):
        config.train.steps = steps
        made.clear()
        train(config, tmp_path / "parts")
        assert min(made) == (steps - 3) * 4 // rows, "an epoch that is over is not made again"
        assert max(made) == (steps * 4 - 1) // rows, "nor one that begins after the last step"
    states = [resume_proof.last_state(tmp_path / name) for name in ("whole", "parts")]
    assert resume_proof.differing_arrays(*states) == []


def test_validation_has_no_dropout(tmp_path):
    tokenizers().save(tmp_path)
    config = tiny_config({"data.subword_dropout": 0.9, "data.train_size": 31})
    splits = corpora.load_splits(config.data, ["train", "valid"])
    prepared = prepare(
        config,
        tmp_path,
        choose_devices(config),
        lambda: splits["train"],
        splits["valid"],
        resuming=False,
    )
    batches = prepared.validation.one_epoch()
    found = Counter()
    for batch in batches:
        for tokens, segments in zip(batch["labels"], batch["target_segments"], strict=True):
            found.update(
                tuple(tokens[segments == n].tolist()) for n in range(1, segments.max() + 1)
            )
    targets = [target for _, target in splits["valid"].pairs]
    whole = Counter((*ids, EOS_ID) for ids in tokenizers().target.encode(targets))
    assert found == Counter({ids: n for ids, n in whole.items() if len(ids) <= 64})
    assert prepared.data.epoch(0).pairs.target.size > 1.3 * prepared.data.pairs.target.size
