"""Packing: every pair once, no row too full, and a batch that depends on its step alone."""

import hashlib
import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import ROOT

from transformer_jax.config.experiment_files import load_experiment
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID
from transformer_jax.data import corpora, packing
from transformer_jax.data import tokens as data_tokens
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.packing import plan_packing
from transformer_jax.data.tokenizer import train_tokenizer
from transformer_jax.data.tokens import TokenizedPairs, tokenize_pairs

MULTI30K = ROOT.parent / "shared" / "data" / "multi30k"
SOURCE_ROW, TARGET_ROW = 31, 37


def plan_of(source_lengths, target_lengths, source_row=SOURCE_ROW, target_row=TARGET_ROW):
    return plan_packing(
        np.asarray(source_lengths, np.int64),
        np.asarray(target_lengths, np.int64),
        source_row_length=source_row,
        target_row_length=target_row,
    )


def random_lengths(count, rng, longest=41):
    return rng.integers(1, longest, (2, count))


def likely_lengths(count, seed=0):
    """Log-normal with a mean near 15, and correlated between the sides, as sentences are."""
    rng = np.random.default_rng(seed)
    common, *own = rng.standard_normal((3, count))
    logs = [2.6 + 0.45 * (0.9 * common + 0.43 * noise) for noise in own]
    return [np.maximum(2, np.exp(side)).astype(np.int64) for side in logs]


def random_pairs(source_lengths, target_lengths, rng):
    """Tokens of those lengths, each sentence's own and ending in <eos>."""
    sides, offsets = [], []
    for lengths in (source_lengths, target_lengths):
        sentences = [[*rng.integers(4, 997, n - 1), EOS_ID] for n in lengths]
        sides.append(np.concatenate(sentences).astype(np.int32))
        offsets.append(np.concatenate([[0], np.cumsum(lengths)]))
    return TokenizedPairs(*sides, *offsets)


def small_dataset(count=101, batch_rows=7, seed=3):
    rng = np.random.default_rng(count)
    lengths = random_lengths(count, rng)
    return PackedDataset(
        random_pairs(*lengths, rng), plan_of(*lengths), batch_rows=batch_rows, seed=seed
    )


def sentence(tokens, offsets, number):
    return tokens[offsets[number] : offsets[number + 1]].tolist()


def segments_of(row_tokens, row_segments):
    """{segment: tokens} of one row, in plain Python."""
    found = {}
    for token, segment in zip(row_tokens.tolist(), row_segments.tolist(), strict=True):
        found.setdefault(segment, []).append(token)
    assert set(found.pop(0, [])) <= {PAD_ID}
    return found


def assert_every_pair_once(rows, fitting):
    assert Counter(np.concatenate([*rows, []]).astype(int).tolist()) == Counter(fitting)


# ---------------------------------------------------------------------------------------- the plan
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 41), st.integers(1, 41)), max_size=47),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_every_pair_once_and_no_row_is_too_full(lengths, seed, epoch):
    source, target = np.array(lengths, np.int64).reshape(-1, 2).T
    plan = plan_of(source, target)
    fitting = [i for i, (s, t) in enumerate(lengths) if s <= SOURCE_ROW and t <= TARGET_ROW]
    assert plan.too_long == len(lengths) - len(fitting)
    if not fitting:
        assert plan.rows == 0
        return
    rows = plan.epoch(seed, epoch)
    assert len(rows) == plan.rows
    assert_every_pair_once(rows, fitting)
    for row in rows:
        assert len(row) > 0
        assert source[row].sum() <= SOURCE_ROW
        assert target[row].sum() <= TARGET_ROW


def test_pairs_longer_than_a_row_on_either_side_are_counted():
    plan = plan_of([SOURCE_ROW, SOURCE_ROW + 1, 2, 2], [2, 2, TARGET_ROW, TARGET_ROW + 1])
    assert plan.too_long == 2
    assert_every_pair_once(plan.epoch(0, 0), [0, 2])


def test_epochs_and_seeds_differ_but_never_in_the_number_of_rows():
    plan = plan_of(*likely_lengths(997), 61, 61)
    cases = [(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    orders = [[row.tolist() for row in plan.epoch(*case)] for case in cases]
    assert {len(rows) for rows in orders} == {plan.rows}
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    # Not only the order of rows: pairs meet other pairs.
    companions = [{tuple(sorted(row)) for row in rows} for rows in orders]
    assert len(companions[0] & companions[1]) < plan.rows / 2
    assert [row.tolist() for row in plan.epoch(1, 0)] == orders[2]


@pytest.mark.parametrize("row", [61, 128])
def test_95_percent_of_positions_are_real_for_likely_lengths(row):
    source, target = likely_lengths(20_011)
    assert 12 < source.mean() < 18
    plan = plan_of(source, target, row, row)
    real = source[plan.pairs].sum() + target[plan.pairs].sum()
    assert real / (plan.rows * 2 * row) >= 0.95


@pytest.mark.skipif(not MULTI30K.is_dir(), reason="there is no multi30k beside the checkout")
def test_95_percent_of_positions_are_real_for_multi30k():
    data = load_experiment(ROOT / "experiments" / "multi30k_en_de.py").data
    data.path = str(MULTI30K)
    pairs = corpora.load_split(data, "train").pairs
    tokenizer = train_tokenizer((text for pair in pairs for text in pair), vocab_size=4000)
    tokens = tokenize_pairs(pairs, [tokenizer] * 2)
    lengths = tokens.source_lengths, tokens.target_lengths
    plan = plan_of(*lengths, data.source_row_length, data.target_row_length)
    assert PackedDataset(tokens, plan, batch_rows=64, seed=0).real_share >= 0.95


def test_450_000_pairs_need_few_fillings(monkeypatch):
    fillings, fill_row = [], packing.fill_row
    monkeypatch.setattr(packing, "fill_row", lambda *left: fillings.append(1) or fill_row(*left))
    lengths = likely_lengths(450_000)
    plan = plan_of(*lengths, 128, 128)
    assert len(plan.pairs) + plan.too_long == 450_000
    assert len(fillings) < plan.rows / 10


# ---------------------------------------------------------------------------------------- batches
@pytest.mark.fast
def test_a_batch_decodes_back_to_its_pairs():
    data = small_dataset()
    pairs = data.pairs
    for step in (0, 1, 5, 23):
        batch, row_pairs = data.batch(step), data.batch_pairs(step)
        assert batch["row"].tolist() == list(range(data.batch_rows))
        assert {a.dtype for a in batch.values()} == {np.dtype(np.int32)}
        for row, numbers in enumerate(row_pairs):
            sources = segments_of(batch["source_tokens"][row], batch["source_segments"][row])
            targets = segments_of(batch["labels"][row], batch["target_segments"][row])
            inputs = segments_of(batch["decoder_input"][row], batch["target_segments"][row])
            assert list(sources) == list(targets) == list(range(1, len(numbers) + 1))
            for segment, number in enumerate(numbers, start=1):
                labels = sentence(pairs.target, pairs.target_offsets, number)
                assert sources[segment] == sentence(pairs.source, pairs.source_offsets, number)
                assert targets[segment] == labels
                assert inputs[segment] == [BOS_ID, *labels[:-1]]


def test_positions_count_from_zero_in_each_segment():
    batch = small_dataset().batch(2)
    for side in ("source", "target"):
        rows = zip(batch[f"{side}_segments"], batch[f"{side}_positions"], strict=True)
        for segments, positions in rows:
            expected, seen = [], Counter()
            for segment in segments.tolist():
                expected.append(seen[segment] if segment else 0)
                seen[segment] += 1
            assert positions.tolist() == expected


def test_a_batch_is_a_function_of_its_step():
    data = small_dataset()
    steps = [0, 40, 3, 17, 3, 0, 40]
    batches = {step: small_dataset().batch(step) for step in set(steps)}
    for step in steps:  # forth and back over epochs, and against a fresh object for each
        for name, array in data.batch(step).items():
            np.testing.assert_array_equal(array, batches[step][name])


def test_consecutive_batches_are_epoch_after_epoch():
    data = small_dataset()
    rows, steps = data.plan.rows, 29
    assert steps * data.batch_rows > 2 * rows, "to cross two epochs"
    seen = [row.tolist() for step in range(steps) for row in data.batch_pairs(step)]
    for epoch in (0, 1):
        expected = data.plan.epoch(data.seed, epoch)
        assert seen[epoch * rows : (epoch + 1) * rows] == [row.tolist() for row in expected]
    data = small_dataset(count=5, batch_rows=19)
    assert data.plan.rows < 19
    counts = Counter(np.concatenate(data.batch_pairs(0)).tolist())
    assert set(counts) == set(data.plan.pairs.tolist())
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("batch_rows", [7, 211])
def test_tokens_seen_are_the_real_tokens_of_the_batches(batch_rows):
    data = small_dataset(batch_rows=batch_rows)
    source = target = 0
    for step in range(2 * (data.plan.rows // data.batch_rows) + 5):
        assert data.tokens_seen(step) == (source, target)
        batch = data.batch(step)
        source += int((batch["source_segments"] != 0).sum())
        target += int((batch["labels"] != PAD_ID).sum())
    again = small_dataset(batch_rows=batch_rows)
    assert again.tokens_seen(step) == data.tokens_seen(step), "whatever was asked before"


def test_one_epoch_has_every_pair_once_and_its_share_of_real_positions():
    data = small_dataset()
    found = Counter()
    for batch in data.one_epoch():
        assert batch["labels"].shape == (data.batch_rows, TARGET_ROW)
        for tokens, segments in zip(batch["labels"], batch["target_segments"], strict=True):
            found.update(map(tuple, segments_of(tokens, segments).values()))
    pairs = data.pairs
    assert found == Counter(
        tuple(sentence(pairs.target, pairs.target_offsets, n)) for n in data.plan.pairs
    )
    data = small_dataset()
    batches = data.one_epoch()
    real = sum((b["source_segments"] > 0).sum() + (b["target_segments"] > 0).sum() for b in batches)
    assert data.real_share == pytest.approx(real / (data.plan.rows * (SOURCE_ROW + TARGET_ROW)))


# ------------------------------------------------------------------------------------- the tokens
class Spelling:
    """A tokenizer that spells, and counts the texts it is given."""

    vocab_size = 2**16

    def __init__(self, model=b"spelling"):
        self.model, self.texts = model, 0

    def encode(self, texts):
        self.texts += len(texts)
        return [[ord(c) for c in text] for text in texts]


PAIRS = [("猫", "a cat"), ("一只狗", "dog"), ("x", "y")]


def ids(text):
    return [*map(ord, text), EOS_ID]


def assert_are_tokens_of(tokens, pairs):
    assert len(tokens) == len(pairs)
    for number, (source, target) in enumerate(pairs):
        assert sentence(tokens.source, tokens.source_offsets, number) == ids(source)
        assert sentence(tokens.target, tokens.target_offsets, number) == ids(target)
    assert tokens.source_lengths.tolist() == [len(ids(s)) for s, _ in pairs]
    assert tokens.target_lengths.tolist() == [len(ids(t)) for _, t in pairs]


@pytest.mark.parametrize("chunk", [1, 2, 10])
def test_tokens_end_in_eos_whatever_the_chunks(monkeypatch, chunk):
    monkeypatch.setattr(data_tokens, "_CHUNK", chunk)
    ticks = []
    assert_are_tokens_of(tokenize_pairs(PAIRS, [Spelling()] * 2, progress=ticks.append), PAIRS)
    assert sum(ticks) == len(PAIRS)


def test_tokens_are_encoded_once_and_read_from_the_disk(tmp_path):
    first, second = Spelling(), Spelling()
    tokenize_pairs(PAIRS, [first] * 2, tmp_path)
    tokens = tokenize_pairs(PAIRS, [second] * 2, tmp_path)
    assert (first.texts, second.texts) == (6, 0)
    assert isinstance(tokens.source, np.memmap)
    assert tokens.source.dtype == tokens.target.dtype == np.uint16
    assert_are_tokens_of(tokens, PAIRS)


CHANGED = {
    "text": ([*PAIRS[:2], ("x", "z")], b"spelling"),
    "order": (PAIRS[::-1], b"spelling"),
    "direction": ([(t, s) for s, t in PAIRS], b"spelling"),
    "tokenizer": (PAIRS, b"other"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_changes_the_tokens_encodes_again(tmp_path, what):
    pairs, model = CHANGED[what]
    tokenize_pairs(PAIRS, [Spelling()] * 2, tmp_path)
    again = Spelling(model)
    assert_are_tokens_of(tokenize_pairs(pairs, [again] * 2, tmp_path), pairs)
    assert again.texts == 6


def test_damaged_tokens_are_encoded_again(tmp_path):
    tokenize_pairs(PAIRS, [Spelling()] * 2, tmp_path)
    files = sorted(tmp_path.rglob("*.npy"))
    assert len(files) == 4
    for file in files:
        for content in (file.read_bytes()[:100], file.read_bytes()[:-1], b"", None):
            file.unlink()
            if content is not None:
                file.write_bytes(content)
            assert_are_tokens_of(tokenize_pairs(PAIRS, [Spelling()] * 2, tmp_path), PAIRS)


def kill_at_once(count):
    raise KeyboardInterrupt


def test_tokens_of_a_killed_run_are_written_again(tmp_path, monkeypatch):
    saved = []

    def kill(folder):
        saved.extend(folder.glob("*.npy"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data_tokens.manifest, "write", kill)
        tokenize_pairs(PAIRS, [Spelling()] * 2, tmp_path)
    monkeypatch.setattr(data_tokens, "_CHUNK", 2)
    with pytest.raises(KeyboardInterrupt):  # in the middle of a file
        tokenize_pairs(PAIRS[::-1], [Spelling()] * 2, tmp_path, progress=kill_at_once)
    assert not list(tmp_path.rglob("*.tmp"))
    again = Spelling()
    assert_are_tokens_of(tokenize_pairs(PAIRS, [again] * 2, tmp_path), PAIRS)
    assert saved and again.texts == 6


def test_sentences_are_encoded_without_keeping_them(tmp_path):
    """Memory does not grow with the text: kept ids would take more than 100 bytes a pair."""

    def peak(count):
        class Generated:
            __len__ = lambda self: count  # noqa: E731
            __iter__ = lambda self: ((f"source {n}", f"target {n}") for n in range(count))  # noqa: E731

        tracemalloc.start()
        tokens = tokenize_pairs(Generated(), [Spelling()] * 2, tmp_path, name=str(count))
        assert len(tokens) == count
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_tokens, "_CHUNK", 97)
        few, many = peak(997), peak(4999)
    assert (many - few) / (4999 - 997) < 8


def test_a_plan_and_an_epoch_take_few_bytes_a_pair():
    lengths = likely_lengths(100_003)
    plan = plan_of(*lengths, 61, 61)
    arrays = plan.row_sizes, plan.slot_row, plan.slot_rank, plan.pairs, plan.alike
    assert sum(array.nbytes for array in arrays) < 11 * len(plan.pairs)
    rows = plan.epoch(0, 0)
    assert rows.pairs.nbytes + rows.starts.nbytes < 7 * len(plan.pairs)


@pytest.mark.parametrize("dealt", [1, 7, 97])
def test_an_epoch_is_the_same_however_many_slots_are_dealt_at_a_time(monkeypatch, dealt):
    plan = plan_of(*likely_lengths(1009), 61, 61)
    expected = [row.tolist() for row in plan.epoch(2, 3)]
    monkeypatch.setattr(packing, "_DEALT", dealt)
    assert [row.tolist() for row in plan.epoch(2, 3)] == expected


def test_the_order_of_an_epoch_is_that_of_earlier_versions():
    """Rows that version 0.1.0 dealt: a workdir that resumes continues with the same batches."""
    rows = plan_of(*likely_lengths(1009), 61, 61).epoch(2, 3)
    text = repr([row.tolist() for row in rows]).encode()
    assert hashlib.sha256(text).hexdigest()[:16] == "1c9ce950f0ded892"
