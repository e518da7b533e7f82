"""Constraints of a search against loops over lists, and what they cost when there is none."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.config.options import DecodeConfig, ModelConfig
from transformer_jax.errors import UserError
from transformer_jax.inference import constraints, search
from transformer_jax.inference.batch_search import search_batch
from transformer_jax.inference.limits import Limits
from transformer_jax.inference.search_loop import Rows
from transformer_jax.inference.translator import Translator
from transformer_jax.model.transformer import Transformer

V, R, T, BOS = 5, 7, 13, 4
INF = float("inf")


def test_docstring_examples():
    tokens = jnp.array([[3, 4, 3, 0], [3, 4, 4, 0]])
    found = constraints.no_repeated_ngrams(jnp.zeros((2, 5)), tokens, 3, size=2)
    assert found.tolist() == [[0, 0, 0, 0, -INF]] * 2
    scores, tokens = jnp.array([[-2.0, 3, 5]]), jnp.array([[0, 1, 2]])
    found = constraints.penalised_repetitions(scores, tokens, 2, penalty=2.0)
    assert found.tolist() == [[-4, 1.5, 5]]
    tokens, sequences = jnp.array([[4, 3], [3, 4]]), [(1,), (3, 2)]
    found = constraints.without_sequences(
        jnp.zeros((2, 5)), tokens, 1, sequences=sequences, bos_id=9
    )
    assert found.tolist() == [[0, -INF, 0, 0, 0], [0, -INF, -INF, 0, 0]]


def repeats(made, token, size):
    ngrams = [made[i : i + size] for i in range(len(made) - size + 1)]
    return [*made, token][-size:] in ngrams and len(made) >= size - 1


SEQUENCES = ((2,), (0, 1), (3, 3), (1, 0, 2), (BOS, 1), (BOS, 3, 0), tuple([1] * 17))


def forbidden(made, token):
    rows = [list(row) for row in SEQUENCES]
    return any([BOS, *made, token][-len(row) :] == row for row in rows)


@pytest.mark.parametrize("step", [0, 1, 2, 3, 8, T - 1])
def test_constraints_against_loops(step):
    rng = np.random.default_rng(step)
    scores = rng.normal(size=(R, V)).astype(np.float32)
    tokens = rng.integers(0, 3, (R, T)).astype(np.int32)
    for size in (1, 2, 3, 5, T, 17):
        run = jax.jit(functools.partial(constraints.no_repeated_ngrams, size=size))
        found = np.asarray(run(scores, tokens, step))
        for row in range(R):
            made = tokens[row, :step].tolist()
            expected = [-INF if repeats(made, v, size) else float(scores[row, v]) for v in range(V)]
            assert found[row].tolist() == expected, (size, made)
    run = functools.partial(constraints.without_sequences, sequences=SEQUENCES, bos_id=BOS)
    found = np.asarray(jax.jit(run)(scores, tokens, step))
    for row in range(R):
        made = tokens[row, :step].tolist()
        expected = [-INF if forbidden(made, v) else float(scores[row, v]) for v in range(V)]
        assert found[row].tolist() == expected, made
    found = np.asarray(constraints.penalised_repetitions(scores, tokens, step, penalty=1.5))
    for row, token in np.ndindex(R, V):
        x = scores[row, token]
        worse = x * np.float32(1.5) if x < 0 else x / np.float32(1.5)
        generated = token in tokens[row, :step]
        np.testing.assert_allclose(found[row, token], worse if generated else x, rtol=1e-6)


def run_search(method, adjust, prefix=None):
    """Of a model that gives the same distribution at every step, whatever came before."""
    logits = jnp.log(jnp.array([0.02, 0.08, 0.1, 0.5, 0.3]))  # pad, eos, and three words
    limits, rows = Limits(7, 9, 1, 0, adjust=adjust), Rows(jnp.array([7]), prefix)
    step = lambda memory, cache, tokens: (jnp.tile(logits, (len(tokens), 1)), cache)  # noqa: E731
    if method == "beam":
        return search.beam_search(step, limits, beam_size=3, length_penalty=0.0)({}, {}, rows)
    return search.greedy_search(step, limits)({}, {}, rows)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_log_probs_stay_the_models_and_prefixes_are_free(method):
    adjust = functools.partial(constraints.no_repeated_ngrams, size=1)
    found = run_search(method, adjust)
    assert found.tokens[0, 0, :4].tolist() == [3, 4, 2, 1] or method == "beam"
    probabilities = np.array([1, 0.08, 0.1, 0.5, 0.3])
    for k in range(found.tokens.shape[1]):
        tokens = np.asarray(found.tokens[0, k])
        assert len(set(tokens[tokens > 0])) == (tokens > 0).sum()
        expected = np.log(probabilities[tokens])
        np.testing.assert_allclose(found.token_log_probs[0, k], expected, rtol=1e-5)
        np.testing.assert_allclose(found.log_prob[0, k], expected.sum(), rtol=1e-5)
    found = run_search(method, adjust, prefix=jnp.array([[3, 3, 3, 0, 0, 0, 0]]))
    assert found.tokens[0, 0, :3].tolist() == [3, 3, 3]
    assert 3 not in found.tokens[0, 0, 3:].tolist()


def test_the_score_of_a_beam_follows_what_is_adjusted():
    penalty = functools.partial(constraints.penalised_repetitions, penalty=3.0)
    found = run_search("beam", penalty)
    for k in range(3):
        length = int(found.length[0, k])
        made, nats = np.asarray(found.tokens[0, k, :length]), found.token_log_probs[0, k, :length]
        score = sum(
            n * (3 if t in made[:i] else 1) for i, (t, n) in enumerate(zip(made, nats, strict=True))
        )
        np.testing.assert_allclose(found.score[0, k], score, rtol=1e-5)


MODEL = Transformer(ModelConfig(num_layers=1, d_model=8, d_ff=14, num_heads=2), 37)


def lowered(**options):
    decode = dataclasses.replace(DecodeConfig(extra_length=11), **options)
    words = np.zeros((3, 5), np.int32)
    params = jax.eval_shape(MODEL.init, jax.random.key(0), words, words)["params"]
    run = lambda *args: search_batch((MODEL,), decode, *args)  # noqa: E731
    prefix, rows = np.zeros((3, 16), np.int32), np.arange(3)
    return jax.jit(run).lower((params,), words, prefix, rows, jax.random.key(0)).as_text()


@pytest.mark.parametrize("method", ["beam", "greedy"])
def test_constraints_that_are_off_cost_nothing(method):
    plain = lowered(method=method)
    off = {"no_repeat_ngram_size": 0, "repetition_penalty": 1.0, "forbidden_ids": " "}
    assert lowered(method=method, max_length=17, **off) == plain  # the room is 16
    for on in ({"repetition_penalty": 1.1}, {"forbidden_ids": "5"}, {"max_length": 16}):
        assert lowered(method=method, **on) != plain


def test_ids_outside_of_the_vocabulary_are_refused():
    class Tokenizers:
        class target:
            vocab_size = 37

    for options in ({"first_id": 37}, {"forbidden_ids": "5, 6 41"}):
        with pytest.raises(UserError, match=r"id (37|41), outside of a vocabulary of 37"):
            Translator([MODEL], Tokenizers, DecodeConfig(**options))
