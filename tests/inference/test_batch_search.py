"""Batches whose sentences leave when they are done: the same results."""

import jax
import numpy as np
import pytest
from toy import MODEL, VOCAB_SIZE, random_params

from transformer_jax.config.options import EOS_ID, DecodeConfig
from transformer_jax.inference import batch_search
from transformer_jax.inference.batch_search import BatchSearch, search_batch
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.devices import one_device

ROWS, LENGTH = 13, 5
TRANSFORMER = Transformer(MODEL, VOCAB_SIZE)


@pytest.fixture(autouse=True)
def down_to_one(monkeypatch):
    """Batches shrink as far as they can."""
    monkeypatch.setattr(batch_search, "FEWEST_ROWS", 1)


def make_decode(method, **options):
    beams = 3 if method == "beam" else 1
    return DecodeConfig(method=method, beam_size=beams, extra_length=11, **options)


def batch(rows, seed=0):
    """Sentences of mixed lengths with their <eos>, the last row nothing but padding; prefixes."""
    rng = np.random.default_rng(seed)
    source, prefix = np.zeros((rows, LENGTH), np.int32), np.zeros((rows, 3), np.int32)
    for row in source[: rows - 1]:
        length = rng.integers(1, LENGTH)
        row[:length], row[length] = rng.integers(5, VOCAB_SIZE, length), EOS_ID
    prefix[::4, :2] = rng.integers(5, VOCAB_SIZE, (len(prefix[::4]), 2))
    return source, prefix, rng.permutation(rows).astype(np.int32)


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_sentences_that_leave_their_batch_find_what_they_would_in_it(method, monkeypatch):
    decode, params, arrays = (
        make_decode(method),
        [random_params(TRANSFORMER, stddev=1.0)],
        batch(ROWS),
    )
    rng, n_best, sizes = jax.random.key(3), np.int32(1), []
    run = jax.jit(lambda *args: search_batch([TRANSFORMER], decode, *args, n_best=n_best))
    whole = jax.device_get(run(params, *arrays, rng))
    keep = batch_search.keep_rows

    def noticed(state, rows):
        sizes.append((len(state.active), len(rows)))
        return keep(state, rows)

    monkeypatch.setattr(batch_search, "keep_rows", noticed)
    parts = BatchSearch([TRANSFORMER], decode, one_device())
    found = parts(params, *arrays, np.asarray(jax.random.key_data(rng)), n_best=n_best)
    assert any(after < before for before, after in sizes), "or the test would prove nothing"
    assert any(after == before for before, after in sizes), "and the cache grows"
    best = slice(0, 1)  # the others are what was found by then
    np.testing.assert_array_equal(found.tokens[:, best], whole.tokens[:, best])
    for name in ("score", "log_prob", "length"):
        one, other = getattr(found, name)[:, best], getattr(whole, name)[:, best]
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
