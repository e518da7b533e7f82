"""Searches against enumeration and plain-Python searches, on a model that hashes all history."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.inference import search

PAD, EOS = 0, 1
BOS = 101  # outside these tiny vocabularies: 2, 3, … are words
IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}


def with_limits(run):
    """A search that takes the fields of its Limits as keyword arguments."""

    def call(decode_step, cache, **options):
        fields = {name: options.pop(name) for name in search.Limits._fields if name in options}
        return run(decode_step, cache, search.Limits(**fields), **options)

    return call


beam_search, greedy_search, sample = map(
    with_limits, (search.beam_search, search.greedy_search, search.sample)
)
NUM_STATES = 997
START = 11


@functools.cache
def model_table(vocab_size, sharpness=1.5):
    rng = np.random.default_rng(vocab_size)
    return (rng.standard_normal((NUM_STATES, vocab_size)) * sharpness).astype(np.float32)


def next_state(state, sentence, position, token):
    """The model's whole memory: a hash of every token so far, its position and the sentence."""
    return (state * 31 + token * 7 + position * 3 + sentence * 5) % NUM_STATES


def make_cache(sentences):
    sentences = jnp.asarray(sentences, jnp.int32)
    state = jnp.full(sentences.shape, START, jnp.int32)
    return {"state": state, "sentence": sentences, "position": jnp.int32(0)}


def make_decode_step(table):
    def decode_step(cache, tokens):
        state = next_state(cache["state"], cache["sentence"], cache["position"], tokens)
        cache = {**cache, "state": state, "position": cache["position"] + 1}
        return jnp.asarray(table)[state], cache

    return decode_step


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


def jit_to_numpy(static_argnames):
    def wrap(function):
        jitted = jax.jit(function, static_argnames=static_argnames)
        return lambda *args, **kwargs: jax.device_get(jitted(*args, **kwargs))

    return wrap


@jit_to_numpy(static_argnames=("vocab_size", "beam_size", "max_length", "form"))
def run_beam(sentences, limits, alpha, *, vocab_size, beam_size, max_length, form="gnmt"):
    return beam_search(
        make_decode_step(model_table(vocab_size)),
        search.tile_beams(make_cache(sentences), beam_size),
        batch_size=sentences.shape[0],
        beam_size=beam_size,
        max_length=max_length,
        length_limit=limits,
        length_penalty=alpha,
        length_penalty_form=form,
        **IDS,
    )


@jit_to_numpy(static_argnames=("vocab_size", "max_length"))
def run_greedy(sentences, limits, *, vocab_size, max_length):
    return greedy_search(
        make_decode_step(model_table(vocab_size)),
        make_cache(sentences),
        batch_size=sentences.shape[0],
        max_length=max_length,
        length_limit=limits,
        **IDS,
    )


@jit_to_numpy(static_argnames=("vocab_size", "max_length", "temperature", "top_k", "top_p"))
def run_sample(rng, sentences, row_ids, limits, *, vocab_size, max_length, **options):
    return sample(
        make_decode_step(model_table(vocab_size)),
        make_cache(sentences),
        rng=rng,
        row_ids=row_ids,
        batch_size=sentences.shape[0],
        max_length=max_length,
        length_limit=limits,
        **options,
        **IDS,
    )


def run_memoryless(search, logits, num_rows, **options):
    """A search whose model gives the same logits [V] at every step."""

    def decode_step(cache, tokens):
        return jnp.tile(logits, (tokens.shape[0], 1)), cache

    result = jax.jit(lambda: search(decode_step, {}, batch_size=num_rows, **options, **IDS))()
    return jax.device_get(result)


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


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("form", ["gnmt", "power"])
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.6, 2.0])
def test_exhaustive_beam_search_is_enumeration(alpha, form):
    sentences = np.array([3, 17, 29])
    limits = np.array([4, 3, 1])
    vocab_size, beam_size = 4, 29  # 3 * 2**3 extensions at most: no hypothesis is ever pruned
    result = run_beam(
        sentences, limits, alpha, vocab_size=4, beam_size=beam_size, max_length=5, form=form
    )
    table = model_table(vocab_size)
    for row, (sentence, limit) in enumerate(zip(sentences, limits, strict=True)):
        expected = every_hypothesis(table, sentence, limit, alpha, form)[:beam_size]
        check_row(result, row, expected)
        assert np.all(result.score[row, len(expected) :] == -np.inf)
        assert np.all(result.length[row, len(expected) :] == 0)
        assert np.all(result.tokens[row, len(expected) :] == PAD)


@pytest.mark.parametrize(("beam_size", "form"), [(2, "power"), (3, "gnmt"), (5, "power")])
def test_beam_search_is_the_slow_one_that_never_stops_early(beam_size, form):
    sentences = np.arange(13) * 37
    limits = np.array([11, 7, 13, 1, 2, 13, 13, 5, 3, 13, 13, 11, 7])
    table = model_table(7)
    for alpha in (-1.0, -0.3, 0.0, 0.6, 1.7):
        result = run_beam(
            sentences, limits, alpha, vocab_size=7, beam_size=beam_size, max_length=13, form=form
        )
        for row, (sentence, limit) in enumerate(zip(sentences, limits, strict=True)):
            check_row(result, row, slow_beam_search(table, sentence, beam_size, limit, alpha, form))


@pytest.mark.fast
def test_early_stop_saves_exactly_the_steps_it_can():
    calls = []

    def decode_step(cache, tokens):
        jax.debug.callback(lambda: calls.append(1))
        probs = jnp.array([1e-9, 0.5, 0.2, 0.3])  # EOS takes half of what is left at every step
        return jnp.log(jnp.tile(probs, (tokens.shape[0], 1))), cache

    @jax.jit
    def find(alpha):
        options = {"batch_size": 1, "beam_size": 2, "max_length": 23, "length_limit": 23}
        return beam_search(decode_step, {}, length_penalty=alpha, **options, **IDS)

    def count(alpha):
        calls.clear()
        jax.block_until_ready(find(alpha))
        jax.effects_barrier()
        return len(calls)

    # Finished: 0.5, then 0.3 * 0.5 = 0.15; live: 0.3, then 0.09. Without a penalty that decides.
    assert count(0.0) == 2
    # With alpha 1 the second best finished one has log(0.15) / (7/6) = -1.63; the best live one of
    # n tokens may reach n * log(0.3) / ((5 + 23) / 6): -1.55 for n = 6, and -1.81 for n = 7.
    assert count(1.0) == 7


def test_early_stop_expects_the_shortest_where_length_is_punished():
    """alpha -1: after two steps 0.4 and 0.24 are finished, and 0.36, cut at length 23, would score
    far below; yet it ends at once with 0.349, and log(0.349) * 8/6 > log(0.24) * 7/6."""
    probs = jnp.array([[0, 0.4, 0.6]] * 2 + [[0, 0.97, 0.03]] * 21)

    def decode_step(position, tokens):
        return jnp.tile(jnp.log(probs[position]), (tokens.shape[0], 1)), position + 1

    options = {"batch_size": 1, "beam_size": 2, "max_length": 23, "length_limit": 23}
    search = functools.partial(beam_search, decode_step, length_penalty=-1.0)
    result = jax.jit(lambda position: search(position, **options, **IDS))(jnp.int32(0))
    assert result.tokens[0, :, :3].tolist() == [[EOS, PAD, PAD], [2, 2, EOS]]


@pytest.mark.fast
def test_one_beam_without_penalty_is_greedy_search():
    sentences = np.arange(17) * 41
    limits = np.full(17, 11)
    greedy = run_greedy(sentences, limits, vocab_size=7, max_length=11)
    beam = run_beam(sentences, limits, 0.0, vocab_size=7, beam_size=1, max_length=11)
    np.testing.assert_array_equal(greedy.tokens, beam.tokens)
    np.testing.assert_array_equal(greedy.length, beam.length)
    np.testing.assert_allclose(greedy.log_prob, beam.log_prob, rtol=1e-6)
    for row, sentence in enumerate(sentences):
        tokens = []
        while len(tokens) < 11 and EOS not in tokens:
            choices = extensions(model_table(7), sentence, tokens)
            tokens.append(max(choices, key=lambda choice: choice[1])[0])
        log_prob = sum(
            token_log_probs(model_table(7), sentence, tokens[:i])[token]
            for i, token in enumerate(tokens)
        )
        check_row(greedy, row, [(log_prob, tuple(tokens))])


@pytest.mark.fast
def test_allowed_tokens_docstring_example():
    prefix = jnp.array([[4, 3], [4, 0]])
    allowed = search.allowed_tokens(prefix, 1, 5, bos_id=2, pad_id=0)
    assert allowed.astype(int).tolist() == [[0, 0, 0, 1, 0], [0, 1, 0, 1, 1]]
    beyond = search.allowed_tokens(prefix, 2, 5, bos_id=2, pad_id=0)
    assert beyond.astype(int).tolist() == [[0, 1, 0, 1, 1]] * 2


@pytest.mark.parametrize("search", ["greedy", "sample", "beam"])
def test_padding_and_bos_are_never_generated(search):
    """They are by far the most probable; their share of the probability is lost, not shared out."""
    probs = np.array([0.5, 0.03, 0.3, 0.1, 0.07])  # PAD, EOS, BOS, and two words
    options = {"max_length": 5, "length_limit": 5, "batch_size": 3}
    run = {
        "greedy": greedy_search,
        "sample": functools.partial(sample, rng=jax.random.key(0), row_ids=jnp.arange(3)),
        "beam": functools.partial(beam_search, beam_size=2, length_penalty=0.0),
    }[search]

    def decode_step(cache, tokens):
        return jnp.tile(jnp.log(probs), (tokens.shape[0], 1)), cache

    result = jax.jit(lambda: run(decode_step, {}, bos_id=2, eos_id=EOS, pad_id=PAD, **options))()
    for row, length in zip(result.tokens[:, 0], result.length[:, 0], strict=True):
        assert length > 0 and set(row[:length].tolist()) <= {EOS, 3, 4}
    # Nor does it end in <pad>: what follows the last token is padding, of log-prob 0.
    first = np.take(np.log(probs), result.tokens[:, 0, 0])
    np.testing.assert_allclose(result.token_log_probs[:, 0, 0], first, rtol=1e-5)


def test_a_prefix_is_forced_and_the_search_goes_on_from_it():
    sentences = np.array([3, 17, 29, 31])
    begins = [(5, 3, 4), (), (6,), (2, 2, 2, 2, 2)]
    prefix = np.array([[*begin, *[PAD] * (5 - len(begin))] for begin in begins])
    table, limits = model_table(7), np.array([7, 7, 2, 5])
    options = {"batch_size": 4, "max_length": 11, "length_limit": limits, "prefix": prefix, **IDS}
    step = make_decode_step(table)
    beam = jax.jit(
        lambda: beam_search(
            step,
            search.tile_beams(make_cache(sentences), 3),
            beam_size=3,
            length_penalty_form="power",
            **options,
        )
    )()
    for row, (sentence, limit) in enumerate(zip(sentences, limits, strict=True)):
        expected = slow_beam_search(table, sentence, 3, limit, 0.6, "power", begins[row])
        check_row(beam, row, expected)
        assert expected[0][1][: len(begins[row])] == begins[row]
    greedy = jax.jit(lambda: greedy_search(step, make_cache(sentences), **options))()
    one = jax.jit(
        lambda: beam_search(step, make_cache(sentences), beam_size=1, length_penalty=0.0, **options)
    )()
    np.testing.assert_array_equal(greedy.tokens, one.tokens)
    drawn = jax.jit(
        lambda: sample(
            step, make_cache(sentences), rng=jax.random.key(1), row_ids=jnp.arange(4), **options
        )
    )()
    for row, begin in enumerate(begins):
        forced = begin[: limits[row]]
        assert tuple(drawn.tokens[row, 0, : len(forced)].tolist()) == forced
        assert tuple(greedy.tokens[row, 0, : len(forced)].tolist()) == forced
    # The log-probs of forced tokens are the model's own.
    expected = [token_log_probs(table, 31, begins[3][:i])[2] for i in range(5)]
    np.testing.assert_allclose(drawn.token_log_probs[3, 0, :5], expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [-0.5, 0.6])
def test_a_row_depends_on_nothing_else(alpha):
    sentences = np.array([5, 83, 211, 307, 401])
    limits = np.array([7, 13, 2, 0, 11])
    run = functools.partial(run_beam, vocab_size=7, beam_size=3)
    together = run(sentences, limits, alpha, max_length=13)
    assert np.all(together.length <= limits[:, None])
    assert len({int(n) for n in together.length[:, 0]}) > 2  # rows do finish at different steps
    roomy = run(sentences, limits, alpha, max_length=19)
    cut = {"tokens": roomy.tokens[:, :, :13], "token_log_probs": roomy.token_log_probs[:, :, :13]}
    assert_same(together, roomy._replace(**cut))
    assert np.all(roomy.tokens[:, :, 13:] == PAD)
    for row in range(5):
        alone = run(sentences[[row]], limits[[row]], alpha, max_length=13)
        assert_same(jax.tree.map(lambda x, row=row: x[[row]], together), alone)


def test_length_limit_zero_pads_a_batch():
    for result in (
        run_beam(np.array([3]), np.array([0]), 0.6, vocab_size=7, beam_size=3, max_length=5),
        run_greedy(np.array([3]), np.array([0]), vocab_size=7, max_length=5),
    ):
        assert np.all(result.tokens == PAD) and np.all(result.length == 0)
        assert result.log_prob[0, 0] == 0 and result.score[0, 0] == 0


def test_length_limit_cannot_exceed_max_length():
    limits = np.array([1000, 5])
    run = functools.partial(run_greedy, np.array([3, 3]), vocab_size=7, max_length=5)
    assert_same(run(limits), run(np.array([5, 5])))


def test_unfinished_hypotheses_come_after_finished_ones():
    """EOS is improbable: at the limit one is finished, and better unfinished ones follow it."""
    logits = jnp.log(jnp.array([1e-9, 0.1, 0.5, 0.4]))
    options = {"beam_size": 3, "max_length": 3, "length_limit": 1, "length_penalty": 0.0}
    result = run_memoryless(beam_search, logits, 1, **options)
    assert result.tokens[0, :, 0].tolist() == [EOS, 2, 3]
    np.testing.assert_allclose(np.exp(result.score[0]), [0.1, 0.5, 0.4], rtol=1e-5)


def test_impossible_tokens_are_never_chosen():
    """V=5, K=4, and three of the tokens impossible: one live hypothesis, one end per length."""
    logits = jnp.array([-jnp.inf, 0.0, jnp.log(3.0), -jnp.inf, -jnp.inf], jnp.bfloat16)
    options = {"beam_size": 4, "max_length": 2, "length_limit": 2, "length_penalty": 0.0}
    result = run_memoryless(beam_search, logits, 1, **options)
    assert result.log_prob.dtype == result.score.dtype == jnp.float32
    assert result.tokens[0].tolist() == [[EOS, PAD], [2, EOS], [2, 2], [PAD, PAD]]
    assert result.length[0].tolist() == [1, 2, 2, 0]
    odds = np.exp(np.float32(logits[2]))  # nearly 3; the sums must be float32 all the same
    expected = np.array([1, odds / (1 + odds), odds**2 / (1 + odds), 0]) / (1 + odds)
    np.testing.assert_allclose(np.exp(result.log_prob[0]), expected, rtol=1e-5)
    assert not np.any(np.isnan(result.token_log_probs))


def test_a_dead_end_takes_no_place():
    """After token 3 nothing is possible; its beam (0 / 0 in softmax) must not displace others."""

    def decode_step(cache, tokens):
        logits = jnp.log(jnp.array([0.0, 0.1, 0.4, 0.5]))
        return jnp.where(tokens[:, None] == 3, -jnp.inf, logits), cache

    options = {"batch_size": 1, "beam_size": 3, "max_length": 3, "length_limit": 3}
    find = jax.jit(lambda: beam_search(decode_step, {}, length_penalty=0.0, **options, **IDS))
    result = find()
    assert result.tokens[0].tolist() == [[EOS, PAD, PAD], [2, EOS, PAD], [2, 2, EOS]]
    np.testing.assert_allclose(np.exp(result.score[0]), [0.1, 0.04, 0.016], rtol=1e-5)
    # Where top_k puts a nan depends on the platform, so there must be none.
    nothing = jnp.full((1, 2, 5), -jnp.inf)
    found = search._best_extensions(nothing, jnp.ones((1, 5), bool), jnp.zeros((1, 2)), 4)
    assert np.all(found[2] == -np.inf)


@pytest.mark.fast
def test_beam_step_docstring_example():
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
    allowed = search.allowed_tokens(None, 1, 4, bos_id=BOS, pad_id=PAD)
    live, parent, finished = beam_step(logits, allowed, live, finished, 1.0, step=1, eos_id=EOS)
    assert live.tokens.tolist() == [[[b, a], [a, a]]]
    assert parent.tolist() == [[1, 0]]
    np.testing.assert_allclose(np.exp(live.log_prob), [[0.32, 0.18]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(live.token_log_probs), [[[0.4, 0.8], [0.6, 0.3]]], rtol=1e-6)
    assert finished.tokens[0, 0].tolist() == [a, EOS]
    np.testing.assert_allclose(np.exp(finished.score), [[0.3, 0.0]], rtol=1e-6)


def test_the_scalar_of_a_cache_is_shared_and_the_rest_is_tiled():
    tiled = search.tile_beams({"x": jnp.arange(6).reshape(2, 3), "position": jnp.int32(5)}, 2)
    assert tiled["x"].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert tiled["position"].shape == ()


@pytest.mark.parametrize("options", [{"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-6}])
def test_sampling_in_the_limit_is_greedy_search(options):
    sentences = np.arange(7) * 43
    limits = np.array([5, 11, 11, 3, 11, 11, 0])
    greedy = run_greedy(sentences, limits, vocab_size=7, max_length=11)
    drawn = run_sample(
        jax.random.key(0), sentences, np.arange(7), limits, vocab_size=7, max_length=11, **options
    )
    assert_same(greedy, drawn)


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
    result = run_memoryless(
        sample,
        jnp.log(probs),
        num_rows,
        rng=jax.random.key(7),
        row_ids=jnp.arange(num_rows),
        max_length=1,
        length_limit=1,
        **options,
    )
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
    limits = np.full(7, 11)
    run = functools.partial(run_sample, jax.random.key(3), vocab_size=7, top_p=0.9)
    together = run(sentences, np.arange(7), limits, max_length=11)
    order = np.array([4, 1, 6])
    some = run(sentences[order], order, limits[:3], max_length=11)
    # The log-probs may be rounded differently for another batch size; the tokens may not differ.
    np.testing.assert_array_equal(together.tokens[order], some.tokens)
    np.testing.assert_allclose(together.log_prob[order], some.log_prob, rtol=1e-5)
    other_rows = run(sentences, np.arange(7) + 7, limits, max_length=11)
    assert np.any(other_rows.tokens != together.tokens)


def test_positions_of_a_sample_are_independent():
    """A model without memory: were positions to share their randomness, a row would repeat."""
    result = run_memoryless(
        sample,
        jnp.zeros(53).at[EOS].set(-jnp.inf),
        499,
        rng=jax.random.key(5),
        row_ids=jnp.arange(499),
        max_length=2,
        length_limit=2,
    )
    assert np.mean(result.tokens[:, 0, 0] == result.tokens[:, 0, 1]) < 0.06  # 1 / 52 expected


@pytest.mark.fast
def test_a_second_call_does_not_retrace():
    traces = []

    def decode_step(cache, tokens):
        traces.append(1)
        return make_decode_step(model_table(7))(cache, tokens)

    @jax.jit
    def find(sentences, limits, alpha):
        cache = search.tile_beams(make_cache(sentences), 2)
        options = {"batch_size": 2, "beam_size": 2, "max_length": 5, "length_limit": limits}
        return beam_search(decode_step, cache, length_penalty=alpha, **options, **IDS)

    find(np.array([3, 5]), np.array([5, 5]), 0.6)
    first = len(traces)
    assert first > 0
    find(np.array([7, 11]), np.array([2, 3]), 1.0)
    assert len(traces) == first


def test_length_normalizer_forms():
    length = jnp.array([1, 7, 13])
    gnmt = search.length_normalizer(length, length_penalty=0.5, form="gnmt")
    np.testing.assert_allclose(gnmt, [1, np.sqrt(2), np.sqrt(3)], rtol=1e-6)
    power = search.length_normalizer(length, length_penalty=2.0, form="power")
    np.testing.assert_allclose(power, [1, 49, 169], rtol=1e-6)


def test_errors_name_the_values():
    def step(cache, tokens):
        return jnp.zeros((tokens.shape[0], 5)), cache

    common = {"batch_size": 2, "max_length": 3, "length_limit": 3, **IDS}
    beam = functools.partial(beam_search, step, {}, **common)
    draw = functools.partial(
        sample, step, {}, rng=jax.random.key(0), row_ids=jnp.arange(2), **common
    )
    for call, message in (
        (lambda: beam(beam_size=0), "beam_size=0"),
        (lambda: beam(beam_size=2, length_penalty_form="wu"), "'wu'.*gnmt.*power"),
        (lambda: beam(beam_size=2, max_length=0), "max_length=0"),
        (lambda: draw(temperature=0.0), "temperature=0.0"),
        (lambda: draw(top_k=-1), "top_k=-1"),
        (lambda: draw(top_p=0.0), "top_p=0.0"),
        (lambda: draw(top_p=1.5), "top_p=1.5"),
        (
            lambda: greedy_search(step, {}, **{**common, "max_length": 0}),
            "max_length=0",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=r"\(2, 7\).*= 6 rows"):
        beam_search(step, {"k": jnp.zeros((2, 7))}, beam_size=3, **common)
