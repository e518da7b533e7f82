"""Toy models with random parameters and a tokenizer, what they find, and trees compared by bits."""

import functools

import jax
import numpy as np

from transformer_jax.config.options import DecodeConfig, ModelConfig
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import train_tokenizers
from transformer_jax.inference.batch_search import search_batch

MODEL = ModelConfig(num_layers=1, d_model=8, d_ff=14, num_heads=2)
PAIRS = grammar.pairs("train", size=300)
VOCAB_SIZE = 701


@functools.cache
def tokenizers():
    """One tokenizer, of both sides."""
    return train_tokenizers(PAIRS, vocab_size=VOCAB_SIZE, shared=True)


def random_params(model, seed=0, *, stddev=0.4):
    """Parameters of numpy arrays, all of them drawn: none is left at 0 or 1."""
    tokens = np.ones((1, 1), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, stddev, x.shape).astype(np.float32), shapes)


def search(model, params, source_tokens, **options):
    """What a search finds with one model; `options` are those of decode."""
    rows, decode = len(source_tokens), DecodeConfig(**options)
    rest = source_tokens, np.zeros((rows, 1), np.int32), np.arange(rows), jax.random.key(0)
    run = jax.jit(lambda params: search_batch([model], decode, [params], *rest))
    return jax.device_get(run(params))


def assert_same_bits(tree, other):
    """Also of what is not finite, and of its dtypes."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()
