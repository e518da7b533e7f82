"""Searches against enumeration and plain-Python searches, on a model that hashes all history."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import assert_same_bits

from transformer_jax.inference import search, search_loop
from transformer_jax.inference.limits import allowed_tokens

PAD, EOS = 0, 1
BOS = 101  # outside these tiny vocabularies: 2, 3, … are words
IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}


SEARCHES = {"beam": search.beam_search, "greedy": search.greedy_search, "sample": search.sample}
STATIC = ["decode_step", "method", "bos_id", "max_length", "beam_size", "length_penalty_form"]
STATIC += ["temperature", "top_k", "top_p"]
OF_ROWS = ("length_limit", "prefix", "rng", "row_ids")
NUM_STATES = 997
START = 11


@functools.cache
def model_table(vocab_size, sharpness=1.5):
    rng = np.random.default_rng(vocab_size)
    return (rng.standard_normal((NUM_STATES, vocab_size)) * sharpness).astype(np.float32)


def next_state(state, sentence, position, token):
    """The model's whole memory: a hash of every token so far, its position and the sentence."""
    return (state * 31 + token * 7 + position * 3 + sentence * 5) % NUM_STATES


def make_cache(rows):
    return {"state": jnp.full(rows, START, jnp.int32), "position": jnp.int32(0)}


@functools.cache
def make_decode_step(vocab_size):
    table = jnp.asarray(model_table(vocab_size))

    def decode_step(sentences, cache, tokens):
        sentences = jnp.repeat(sentences, len(tokens) // len(sentences))
        state = next_state(cache["state"], sentences, cache["position"], tokens)
        return table[state], {"state": state, "position": cache["position"] + 1}

    return decode_step


def memoryless(logits):
    """The decode_step of a model that gives the same logits [V] at every step."""
    return lambda memory, cache, tokens: (jnp.tile(logits, (tokens.shape[0], 1)), cache)


def token_log_probs(table, sentence, prefix):
    """The same model in numpy, float64, from the tokens alone: [V] after `prefix`."""
    state = START
    for position, token in enumerate([BOS, *prefix]):
        state = next_state(state, sentence, position, token)
    logits = table[state].astype(np.float64)
    return logits - np.log(np.sum(np.exp(logits)))


def extensions(table, sentence, prefix, begin=()):
    """[(token, log-prob)] of what may follow `prefix`: the next of `begin`, or all but PAD, BOS."""
    log_probs = token_log_probs(table, sentence, prefix)
    forced = begin[len(prefix) :][:1]
    return [(t, p) for t, p in enumerate(log_probs) if t in (forced or set(range(99)) - {PAD, BOS})]


def normalizer(length, alpha, form):
    return ((5 + length) / 6) ** alpha if form == "gnmt" else length**alpha


def every_hypothesis(table, sentence, limit, alpha, form):
    """(score, tokens) of every sequence: by falling score those that end in EOS, then the rest."""
    complete, cut = [], []

    def visit(prefix, log_prob):
        if prefix and (prefix[-1] == EOS or len(prefix) == limit):
            score = log_prob / normalizer(len(prefix), alpha, form)
            (complete if prefix[-1] == EOS else cut).append((score, prefix))
            return
        for token, value in extensions(table, sentence, prefix):
            visit((*prefix, token), log_prob + value)

    visit((), 0.0)
    return sorted(complete, reverse=True) + sorted(cut, reverse=True)


def slow_beam_search(table, sentence, beam_size, limit, alpha, form, begin=()):
    """The search as its docstring states it, in lists, never stopping before the limit."""
    live, finished = [(0.0, ())], []
    for length in range(1, limit + 1):
        grown = [
            (log_prob + value, (*prefix, token))
            for log_prob, prefix in live
            for token, value in extensions(table, sentence, prefix, begin)
        ]
        grown = sorted(grown, reverse=True)[: 2 * beam_size]
        divisor = normalizer(length, alpha, form)
        finished += [(p / divisor, t) for p, t in grown[:beam_size] if t[-1] == EOS]
        finished = sorted(finished, reverse=True)[:beam_size]
        live = [(p, t) for p, t in grown if t[-1] != EOS][:beam_size]
    cut = [(p / normalizer(limit, alpha, form), t) for p, t in live]
    return (finished + cut)[:beam_size]


def make_search(method, decode_step, **options):
    options = IDS | options
    limits = {name: options.pop(name) for name in search.Limits._fields if name in options}
    return SEARCHES[method](decode_step, search.Limits(**limits), **options)


@functools.partial(jax.jit, static_argnames=STATIC)
def compiled(decode_step, memory, cache, rows, method, **options):
    return make_search(method, decode_step, **options)(memory, cache, rows)


def given(batch_size, length_limit, prefix=None, rng=None, row_ids=None):
    """Rows, of a common limit if it is scalar; with keys if there is one to draw by."""
    rngs = None if rng is None else jax.vmap(jax.random.fold_in, (None, 0))(rng, row_ids)
    limit = jnp.broadcast_to(jnp.int32(length_limit), batch_size)
    return search_loop.Rows(limit, None if prefix is None else jnp.asarray(prefix), rngs)


def find(method, decode_step, cache=(), *, memory=(), max_length, batch_size=1, **options):
    """What a search finds, as numpy arrays; what rows are given is among the options."""
    of_rows = {"length_limit": max_length}
    of_rows |= {n: options.pop(n) for n in OF_ROWS if n in options}
    rows, options = given(batch_size, **of_rows), {"max_length": max_length} | options
    return jax.device_get(compiled(decode_step, memory, cache, rows, method, **options))


def find_for(method, sentences, *, vocab_size=7, **options):
    """What a search finds for some sentences, in the model that hashes all history."""
    cache = make_cache(len(sentences))
    if method == "beam":
        cache = search.tile_beams(cache, options["beam_size"])
    options |= {"memory": jnp.asarray(sentences, jnp.int32), "batch_size": len(sentences)}
    return find(method, make_decode_step(vocab_size), cache, **options)


def check_row(result, row, expected):
    """Row `row` holds exactly the (score, tokens) of `expected`, in that order, padded."""
    for k, (score, tokens) in enumerate(expected):
        length = int(result.length[row, k])
        assert tuple(result.tokens[row, k, :length].tolist()) == tokens
        assert np.all(result.tokens[row, k, length:] == PAD)
        assert np.all(result.token_log_probs[row, k, length:] == 0)
        np.testing.assert_allclose(result.score[row, k], score, atol=1e-5, rtol=1e-5)
        summed = np.sum(result.token_log_probs[row, k])
        np.testing.assert_allclose(result.log_prob[row, k], summed, atol=1e-5)


@pytest.mark.parametrize("form", ["gnmt", "power"])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.6, 2.0])
def test_exhaustive_beam_search_is_enumeration(alpha, form):
    sentences, limits = np.array([3, 17, 29]), np.array([4, 3, 1])
    beam_size = 29  # 3 * 2**3 extensions at most: no hypothesis is ever pruned
    options = {"vocab_size": 4, "beam_size": beam_size, "max_length": 5, "length_limit": limits}
    penalty = {"length_penalty": alpha, "length_penalty_form": form}
    result = find_for("beam", sentences, **options, **penalty)
    for row, (sentence, limit) in enumerate(zip(sentences, limits, strict=True)):
        expected = every_hypothesis(model_table(4), sentence, limit, alpha, form)[:beam_size]
        check_row(result, row, expected)
        assert np.all(result.score[row, len(expected) :] == -np.inf)
        assert np.all(result.length[row, len(expected) :] == 0)
        assert np.all(result.tokens[row, len(expected) :] == PAD)


@pytest.mark.parametrize(("beam_size", "form"), [(2, "power"), (3, "gnmt"), (5, "power")])
def test_beam_search_is_the_slow_one_that_never_stops_early(beam_size, form):
    sentences = np.arange(13) * 37
    limits = np.array([11, 7, 13, 1, 2, 13, 13, 5, 3, 13, 13, 11, 7])
    options = {"beam_size": beam_size, "max_length": 13, "length_limit": limits}
    for alpha in (-1.0, -0.3, 0.0, 0.6, 1.7):
        penalty = {"length_penalty": alpha, "length_penalty_form": form}
        result = find_for("beam", sentences, **options, **penalty)
        for row, (sentence, limit) in enumerate(zip(sentences, limits, strict=True)):
            expected = slow_beam_search(model_table(7), sentence, beam_size, limit, alpha, form)
            check_row(result, row, expected)


@pytest.mark.fast
def test_early_stop_saves_exactly_the_steps_it_can():
    calls = []

    def decode_step(memory, cache, tokens):
        jax.debug.callback(lambda: calls.append(1))
        probs = jnp.array([1e-9, 0.5, 0.2, 0.3])  # EOS takes half of what is left at every step
        return jnp.log(jnp.tile(probs, (tokens.shape[0], 1))), cache

    def count(alpha, **options):
        calls.clear()
        find("beam", decode_step, beam_size=2, max_length=23, length_penalty=alpha, **options)
        jax.effects_barrier()
        return len(calls)

    # Finished: 0.5, then 0.3 * 0.5 = 0.15; live: 0.3, then 0.09. Without a penalty that decides.
    assert count(0.0) == 2
    # With alpha 1 the second best finished one has log(0.15) / (7/6) = -1.63; the best live one of
    # n tokens may reach n * log(0.3) / ((5 + 23) / 6): -1.55 for n = 6, and -1.81 for n = 7.
    assert count(1.0) == 7
    # Whoever wants only the best one waits until 0.3, or n * log(0.3) * 6/28 < log(0.5): n = 3.
    assert count(0.0, n_best=1) == 1
    assert count(1.0, n_best=1) == 3


@pytest.mark.parametrize("n_best", [1, 2])
def test_the_n_best_are_those_of_the_search_that_never_stops_early(n_best):
    sentences = np.arange(13) * 37
    options = {"beam_size": 3, "max_length": 13, "length_penalty_form": "power"}
    for alpha in (-1.0, 0.0, 0.6, 1.7):
        result = find_for("beam", sentences, length_penalty=alpha, n_best=n_best, **options)
        for row, sentence in enumerate(sentences):
            expected = slow_beam_search(model_table(7), sentence, 3, 13, alpha, "power")
            check_row(result, row, expected[:n_best])


def test_early_stop_expects_the_shortest_where_length_is_punished():
    """alpha -1: after two steps 0.4 and 0.24 are finished, and 0.36, cut at length 23, would score
    far below; yet it ends at once with 0.349, and log(0.349) * 8/6 > log(0.24) * 7/6."""
    probs = jnp.array([[0, 0.4, 0.6]] * 2 + [[0, 0.97, 0.03]] * 21)

    def decode_step(memory, position, tokens):
        return jnp.tile(jnp.log(probs[position]), (tokens.shape[0], 1)), position + 1

    options = {"beam_size": 2, "max_length": 23, "length_penalty": -1.0}
    result = find("beam", decode_step, jnp.int32(0), **options)
    assert result.tokens[0, :, :3].tolist() == [[EOS, PAD, PAD], [2, 2, EOS]]


@pytest.mark.fast
def test_one_beam_without_penalty_is_greedy_search():
    sentences = np.arange(17) * 41
    greedy = find_for("greedy", sentences, max_length=11)
    beam = find_for("beam", sentences, max_length=11, beam_size=1, length_penalty=0.0)
    np.testing.assert_array_equal(greedy.tokens, beam.tokens)
    np.testing.assert_array_equal(greedy.length, beam.length)
    np.testing.assert_allclose(greedy.log_prob, beam.log_prob, rtol=1e-6)
    for row, sentence in enumerate(sentences):
        tokens, log_prob = [], 0.0
        while len(tokens) < 11 and EOS not in tokens:
            choices = extensions(model_table(7), sentence, tokens)
            token, value = max(choices, key=lambda choice: choice[1])
            tokens, log_prob = [*tokens, token], log_prob + value
        check_row(greedy, row, [(log_prob, tuple(tokens))])


@pytest.mark.parametrize(("vocab_size", "count"), [(13, 6), (13, 41), (1009, 6)])
@pytest.mark.parametrize("given_gains", [False, True])
def test_the_best_extensions_are_those_of_a_stable_sort(vocab_size, count, given_gains):
    """Equal ones of several beams, dead hypotheses, forbidden tokens; 1,009 has no divisor."""
    rng, shape = np.random.default_rng(3), (5, 3, vocab_size)
    logits = rng.integers(0, 5, shape).astype(np.float32)  # few values: many ties
    log_prob = rng.integers(-3, 1, shape[:2]).astype(np.float32)
    log_prob[1, 1:] = log_prob[2] = -np.inf
    allowed = rng.random((5, vocab_size)) < 0.7
    allowed[3] = False
    gains = np.array(jax.nn.log_softmax(logits))
    if given_gains:
        gains = np.float32(-0.5) * rng.integers(0, 9, shape).astype(np.float32)
        gains[0, 0, :7] = 1e-7  # as rounding may leave it; a sum must not rise
        gains[4, 1] = np.nan  # as where nothing is possible
    given = map(jnp.asarray, (logits, allowed, log_prob))
    given_gains = jnp.asarray(gains) if given_gains else None
    parent, token, gain = search._best_extensions(*given, count, given_gains)

    possible = allowed[:, None] & ~np.isnan(gains)
    gains = np.where(possible, np.minimum(gains, 0), -np.inf)
    sums = (log_prob[..., None] + gains).reshape(5, -1)
    index = np.argsort(-sums, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(parent, index // vocab_size)
    np.testing.assert_array_equal(token, index % vocab_size)
    np.testing.assert_array_equal(gain, np.take_along_axis(gains.reshape(5, -1), index, axis=1))
    best = np.take_along_axis(sums, index, axis=1)
    assert np.mean(best[0, 1:] == best[0, :-1]) > 0.3, "or ties would not show"


@pytest.mark.fast
def test_docstring_examples():
    prefix = jnp.array([[4, 3], [4, 0]])
    allowed = allowed_tokens(prefix, 1, 5, bos_id=2, pad_id=0)
    assert allowed.astype(int).tolist() == [[0, 0, 0, 1, 0], [0, 1, 0, 1, 1]]
    beyond = allowed_tokens(prefix, 2, 5, bos_id=2, pad_id=0)
    assert beyond.astype(int).tolist() == [[0, 1, 0, 1, 1]] * 2
    a, b = 2, 3
    live = search.SearchResult(
        tokens=jnp.array([[[a, PAD], [b, PAD]]]),
        log_prob=jnp.log(jnp.array([[0.6, 0.4]])),
        score=jnp.zeros((1, 2)),
        length=jnp.ones((1, 2), jnp.int32),
        token_log_probs=jnp.log(jnp.array([[[0.6, 1.0], [0.4, 1.0]]])),
    )
    finished = live._replace(score=jnp.full((1, 2), -jnp.inf))
    logits = jnp.log(jnp.array([[[0.0, 0.5, 0.3, 0.2], [0.0, 0.1, 0.8, 0.1]]]))
    beam_step = jax.jit(search.beam_step, static_argnames="eos_id")
    allowed = allowed_tokens(None, 1, 4, bos_id=BOS, pad_id=PAD)
    live, parent, finished = beam_step(logits, allowed, live, finished, 1.0, step=1, eos_id=EOS)
    assert live.tokens.tolist() == [[[b, a], [a, a]]]
    assert parent.tolist() == [[1, 0]]
    np.testing.assert_allclose(np.exp(live.log_prob), [[0.32, 0.18]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(live.token_log_probs), [[[0.4, 0.8], [0.6, 0.3]]], rtol=1e-6)
    assert finished.tokens[0, 0].tolist() == [a, EOS]
    np.testing.assert_allclose(np.exp(finished.score), [[0.3, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("greedy", {}),
        ("sample", {"rng": jax.random.key(0), "row_ids": np.arange(3)}),
        ("beam", {"beam_size": 2, "length_penalty": 0.0}),
    ],
)
def test_padding_and_bos_are_never_generated(method, options):
    """They are by far the most probable; their share of the probability is lost, not shared out."""
    probs = np.array([0.5, 0.03, 0.3, 0.1, 0.07])  # PAD, EOS, BOS, and two words
    step = memoryless(jnp.log(probs))
    result = find(method, step, max_length=5, batch_size=3, bos_id=2, **options)
    for row, length in zip(result.tokens[:, 0], result.length[:, 0], strict=True):
        assert length > 0 and set(row[:length].tolist()) <= {EOS, 3, 4}
    # Nor does it end in <pad>: what follows the last token is padding, of log-prob 0.
    first = np.take(np.log(probs), result.tokens[:, 0, 0])
    np.testing.assert_allclose(result.token_log_probs[:, 0, 0], first, rtol=1e-5)


def test_a_prefix_is_forced_and_the_search_continues_from_it():
    sentences, limits = np.array([3, 17, 29, 31]), np.array([7, 7, 2, 5])
    begins = [(5, 3, 4), (), (6,), (2, 2, 2, 2, 2)]
    prefix = np.array([[*begin, *[PAD] * (5 - len(begin))] for begin in begins])
    options = {"max_length": 11, "length_limit": limits, "prefix": prefix}
    beam = find_for("beam", sentences, beam_size=3, length_penalty_form="power", **options)
    table = model_table(7)
    for row, (sentence, limit) in enumerate(zip(sentences, limits, strict=True)):
        expected = slow_beam_search(table, sentence, 3, limit, 0.6, "power", begins[row])
        check_row(beam, row, expected)
        assert expected[0][1][: len(begins[row])] == begins[row]
    greedy = find_for("greedy", sentences, **options)
    one = find_for("beam", sentences, beam_size=1, length_penalty=0.0, **options)
    np.testing.assert_array_equal(greedy.tokens, one.tokens)
    random = {"rng": jax.random.key(1), "row_ids": np.arange(4)}
    drawn = find_for("sample", sentences, **random, **options)
    for row, begin in enumerate(begins):
        forced = begin[: limits[row]]
        for found in (drawn, greedy):
            assert tuple(found.tokens[row, 0, : len(forced)].tolist()) == forced
    # The log-probs of forced tokens are the model's own.
    expected = [token_log_probs(table, 31, begins[3][:i])[2] for i in range(5)]
    np.testing.assert_allclose(drawn.token_log_probs[3, 0, :5], expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [-0.5, 0.6])
def test_a_row_depends_on_nothing_else(alpha):
    sentences = np.array([5, 83, 211, 307, 401])
    limits = np.array([7, 13, 2, 0, 11])
    options = {"beam_size": 3, "length_penalty": alpha}
    together = find_for("beam", sentences, max_length=13, length_limit=limits, **options)
    assert np.all(together.length <= limits[:, None])
    assert len({int(n) for n in together.length[:, 0]}) > 2  # rows do finish at different steps
    roomy = find_for("beam", sentences, max_length=19, length_limit=limits, **options)
    cut = {"tokens": roomy.tokens[:, :, :13], "token_log_probs": roomy.token_log_probs[:, :, :13]}
    assert_same_bits(together, roomy._replace(**cut))
    assert np.all(roomy.tokens[:, :, 13:] == PAD)
    for row in range(5):
        one = {"max_length": 13, "length_limit": limits[[row]]}
        alone = find_for("beam", sentences[[row]], **one, **options)
        assert_same_bits(jax.tree.map(lambda x, row=row: x[[row]], together), alone)


def test_length_limits_of_zero_and_above_max_length():
    for method, options in (("beam", {"beam_size": 3}), ("greedy", {})):
        limit = {"max_length": 5, "length_limit": np.array([0])}
        result = find_for(method, np.array([3]), **limit, **options)
        assert np.all(result.tokens == PAD) and np.all(result.length == 0)
        assert result.log_prob[0, 0] == 0 and result.score[0, 0] == 0
    above, at = (
        find_for("greedy", np.array([3, 3]), max_length=5, length_limit=np.array(limits))
        for limits in ([1000, 5], [5, 5])
    )
    assert_same_bits(above, at)


def test_impossible_tokens_are_never_chosen_and_unfinished_hypotheses_come_last():
    """EOS is improbable: at the limit one is finished, and better unfinished ones follow it."""
    logits = jnp.log(jnp.array([1e-9, 0.1, 0.5, 0.4]))
    options = {"beam_size": 3, "max_length": 3, "length_limit": 1, "length_penalty": 0.0}
    result = find("beam", memoryless(logits), **options)
    assert result.tokens[0, :, 0].tolist() == [EOS, 2, 3]
    np.testing.assert_allclose(np.exp(result.score[0]), [0.1, 0.5, 0.4], rtol=1e-5)
    # V=5, K=4, and three of the tokens impossible: one live hypothesis, one end per length.
    logits = jnp.array([-jnp.inf, 0.0, jnp.log(3.0), -jnp.inf, -jnp.inf], jnp.bfloat16)
    options = {"beam_size": 4, "max_length": 2, "length_penalty": 0.0}
    result = find("beam", memoryless(logits), **options)
    assert result.log_prob.dtype == result.score.dtype == jnp.float32
    assert result.tokens[0].tolist() == [[EOS, PAD], [2, EOS], [2, 2], [PAD, PAD]]
    assert result.length[0].tolist() == [1, 2, 2, 0]
    odds = np.exp(np.float32(logits[2]))  # nearly 3; the sums must be float32 all the same
    expected = np.array([1, odds / (1 + odds), odds**2 / (1 + odds), 0]) / (1 + odds)
    np.testing.assert_allclose(np.exp(result.log_prob[0]), expected, rtol=1e-5)
    assert not np.any(np.isnan(result.token_log_probs))


def test_a_dead_end_takes_no_place():
    """After token 3 nothing is possible; its beam (0 / 0 in softmax) must not displace others."""

    def decode_step(memory, cache, tokens):
        logits = jnp.log(jnp.array([0.0, 0.1, 0.4, 0.5]))
        return jnp.where(tokens[:, None] == 3, -jnp.inf, logits), cache

    result = find("beam", decode_step, beam_size=3, max_length=3, length_penalty=0.0)
    assert result.tokens[0].tolist() == [[EOS, PAD, PAD], [2, EOS, PAD], [2, 2, EOS]]
    np.testing.assert_allclose(np.exp(result.score[0]), [0.1, 0.04, 0.016], rtol=1e-5)
    # Where top_k puts a nan depends on the platform, so there must be none.
    nothing = jnp.full((1, 2, 5), -jnp.inf)
    found = search._best_extensions(nothing, jnp.ones((1, 5), bool), jnp.zeros((1, 2)), 4)
    assert np.all(found[2] == -np.inf)


def test_the_scalar_of_a_cache_is_shared_and_the_rest_is_tiled():
    tiled = search.tile_beams({"x": jnp.arange(6).reshape(2, 3), "position": jnp.int32(5)}, 2)
    assert tiled["x"].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert tiled["position"].shape == ()


@pytest.mark.parametrize("options", [{"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-6}])
def test_sampling_in_the_limit_is_greedy_search(options):
    sentences = np.arange(7) * 43
    limits = {"max_length": 11, "length_limit": np.array([5, 11, 11, 3, 11, 11, 0])}
    random = {"rng": jax.random.key(0), "row_ids": np.arange(7)}
    drawn = find_for("sample", sentences, **random, **limits, **options)
    assert_same_bits(find_for("greedy", sentences, **limits), drawn)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [1, 2, 3, 4]),
        ({"temperature": 2.0}, [1, 2, 3, 4]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 1000}, [1, 2, 3, 4]),
        ({"top_p": 0.7}, [3, 4]),  # 0.42 + 0.32 reaches it: without PAD's 0.05 all are more
        ({"top_p": 0.75}, [1, 3, 4]),
        ({"top_k": 3, "top_p": 0.4}, [4]),  # of the three, 0.4 has 0.47
    ],
)
def test_samples_follow_the_distribution(options, kept):
    """First tokens of many rows, Pearson's statistic below its 99.9 % quantile (3 d.o.f.)."""
    probs = np.array([0.05, 0.15, 0.1, 0.301, 0.399])
    num_rows = 5003
    rows = {"batch_size": num_rows, "row_ids": np.arange(num_rows), "rng": jax.random.key(7)}
    result = find("sample", memoryless(jnp.log(probs)), max_length=1, **rows, **options)
    expected = np.zeros(5)
    expected[kept] = probs[kept] ** (1 / options.get("temperature", 1.0))
    expected *= num_rows / expected.sum()
    tokens = result.tokens[:, 0, 0]
    counts = np.bincount(tokens, minlength=5)
    assert np.all(counts[expected == 0] == 0)
    pearson = np.sum((counts[kept] - expected[kept]) ** 2 / expected[kept])
    assert pearson < 16.27
    # What is returned is the model's own log-prob, whatever the options, and with PAD's share lost.
    np.testing.assert_allclose(result.log_prob[:, 0], np.log(probs)[tokens], rtol=1e-5)


def test_a_sample_is_decided_by_rng_row_and_position():
    sentences = np.arange(7) * 43

    def draw(sentences, row_ids):
        options = {"rng": jax.random.key(3), "row_ids": row_ids, "top_p": 0.9}
        return find_for("sample", sentences, max_length=11, **options)

    together = draw(sentences, np.arange(7))
    order = np.array([4, 1, 6])
    some = draw(sentences[order], order)
    # The log-probs may be rounded differently for another batch size; the tokens may not differ.
    np.testing.assert_array_equal(together.tokens[order], some.tokens)
    np.testing.assert_allclose(together.log_prob[order], some.log_prob, rtol=1e-5)
    assert np.any(draw(sentences, np.arange(7) + 7).tokens != together.tokens)


def test_positions_of_a_sample_are_independent():
    """A model without memory: were positions to share their randomness, a row would repeat."""
    step = memoryless(jnp.zeros(53).at[EOS].set(-jnp.inf))
    rows = {"batch_size": 499, "row_ids": np.arange(499), "rng": jax.random.key(5)}
    result = find("sample", step, max_length=2, **rows)
    assert np.mean(result.tokens[:, 0, 0] == result.tokens[:, 0, 1]) < 0.06  # 1 / 52 expected


@pytest.mark.fast
def test_a_second_call_does_not_retrace():
    traces = []

    def decode_step(memory, cache, tokens):
        traces.append(1)
        return make_decode_step(7)(memory, cache, tokens)

    seen = []
    for sentences, limits, alpha in (([3, 5], [5, 5], 0.6), ([7, 11], [2, 3], 1.0)):
        cache = search.tile_beams(make_cache(2), 2)
        options = {"batch_size": 2, "beam_size": 2, "max_length": 5, "length_penalty": alpha}
        options |= {"memory": jnp.array(sentences), "length_limit": np.array(limits)}
        find("beam", decode_step, cache, **options)
        seen.append(len(traces))
    assert seen[0] == seen[1] > 0


def test_length_normalizer_forms():
    length = jnp.array([1, 7, 13])
    gnmt = search.length_normalizer(length, length_penalty=0.5, form="gnmt")
    np.testing.assert_allclose(gnmt, [1, np.sqrt(2), np.sqrt(3)], rtol=1e-6)
    power = search.length_normalizer(length, length_penalty=2.0, form="power")
    np.testing.assert_allclose(power, [1, 49, 169], rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("beam", {"beam_size": 0}, "beam_size=0"),
        ("beam", {"beam_size": 2, "length_penalty_form": "wu"}, "'wu'.*gnmt.*power"),
        ("beam", {"beam_size": 2, "max_length": 0}, "max_length=0"),
        ("beam", {"beam_size": 3, "cache": {"k": np.zeros((2, 7))}}, r"\(2, 7\).*= 6 rows"),
        ("greedy", {"max_length": 0}, "max_length=0"),
        ("sample", {"temperature": 0.0}, "temperature=0.0"),
        ("sample", {"top_k": -1}, "top_k=-1"),
        ("sample", {"top_p": 0.0}, "top_p=0.0"),
        ("sample", {"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_errors_name_the_values(method, options, message):
    if method == "sample":
        options |= {"rng": jax.random.key(0), "row_ids": np.arange(2)}
    with pytest.raises(ValueError, match=message):
        find(method, memoryless(jnp.zeros(5)), **{"max_length": 3, "batch_size": 2} | options)


# ------------------------------------------------------------------ rows that are done, and leave
def remember(sentences, cache, tokens):
    """A model that reads every token so far from a cache [R, room]; what exceeds it is lost."""
    sentences = jnp.repeat(sentences, len(tokens) // len(sentences))
    seen = cache["tokens"].at[:, cache["position"]].set(tokens + 1, mode="drop")
    places = jnp.arange(seen.shape[1])
    state = (jnp.sum(seen * (places * places + 3), axis=1) + 5 * sentences) % NUM_STATES
    cache = {"tokens": seen, "position": cache["position"] + 1}
    return jnp.asarray(model_table(7))[state], cache


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_a_search_continues_with_some_of_its_rows(method):
    """After every third step those that are done leave, and the others change places."""
    batch, beams = 13, 3 if method == "beam" else 1
    options = {"max_length": 11} | ({"beam_size": 3} if method == "beam" else {})
    memory = jnp.arange(batch) * 37
    cache = {"tokens": jnp.zeros((batch * beams, 11), jnp.int32), "position": jnp.int32(0)}
    prefix = jnp.zeros((batch, 2), jnp.int32).at[::4, 0].set(5)
    rows = given(batch, jnp.arange(batch) % 12, prefix, jax.random.key(3), jnp.arange(batch))
    whole = jax.device_get(compiled(remember, memory, cache, rows, method, **options))
    parts = make_search(method, remember, **options)
    state, numbers, sizes = parts.start(memory, cache, rows), np.arange(batch), []
    found, keep = jax.tree.map(np.zeros_like, whole), jax.jit(search_loop.keep_rows)

    @jax.jit
    def advance(state):
        state = jax.lax.fori_loop(0, 3, lambda _, state: parts.step(state)[0], state)
        return state, parts.result(state)

    while numbers.size:
        state, result = advance(state)
        for all_rows, some in zip(found, result, strict=True):
            all_rows[numbers] = some
        kept = np.flatnonzero(state.active)[::-1]
        state, numbers = keep(state, kept), numbers[kept]
        sizes.append(len(kept))
    assert len({*sizes}) > 2, "or the test would prove nothing"
    jax.tree.map(np.testing.assert_array_equal, whole, found)
