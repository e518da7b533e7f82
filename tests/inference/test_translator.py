"""From text to text: order, company, shapes, and the sentences that are none."""

import dataclasses
import itertools
import logging
import random
import re
import threading
from collections import Counter

import jax
import numpy as np
import pytest
from launching import refused
from toy import MODEL, VOCAB_SIZE, random_params, tokenizers

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, DecodeConfig
from transformer_jax.inference import batch_search, batching
from transformer_jax.inference import search as inference_search
from transformer_jax.inference.translator import Hypothesis, Translator, hypotheses_of
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel import devices

TOKENIZERS = tokenizers()
TOKENIZER = TOKENIZERS.target
LENGTHS = (4, 9)
DECODE = DecodeConfig(beam_size=3, extra_length=2, batch_size=5)
LETTERS = "我你他她有一三五猫狗书人大小"


@pytest.fixture(scope="module", autouse=True)
def few_lengths():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "SOURCE_LENGTHS", LENGTHS)
        yield


@pytest.fixture(scope="module")
def params():
    return [random_params(Transformer(MODEL, VOCAB_SIZE), stddev=1.0)]


def make_translator(seed=0, model=MODEL, **options):
    decode = dataclasses.replace(DECODE, **options)
    return Translator([Transformer(model, VOCAB_SIZE)], TOKENIZERS, decode, seed=seed)


@pytest.fixture(scope="module")
def translators():
    """One per method, so that each shape is compiled once for all tests."""
    return {method: make_translator(method=method) for method in ("beam", "greedy", "sample")}


def like(translator, **options):
    """Another translator that shares what is compiled: these options are none of the search's."""
    other = make_translator(method=translator.decode.method, **options)
    other._search = translator._search
    return other


def pieces(sentence):
    return len(TOKENIZER.encode([sentence])[0]) + 1


def sentence_of(count, rng):
    """A sentence of `count` pieces with its <eos>."""
    while True:
        text = "".join(rng.choices(LETTERS, k=count - 1))
        if pieces(text) == count:
            return text


def sentences_of(*counts, seed=0):
    rng = random.Random(seed)
    return [sentence_of(count, rng) for count in counts]


def assert_same(found, expected):
    assert [[h.text for h in hypotheses] for hypotheses in found] == [
        [h.text for h in hypotheses] for hypotheses in expected
    ]
    for a, b in zip(found, expected, strict=True):
        for field in ("score", "log_prob"):
            np.testing.assert_allclose(
                [getattr(h, field) for h in a], [getattr(h, field) for h in b], rtol=1e-4, atol=1e-4
            )


MIXED = sentences_of(5, 2, 9, 6, 3, 4, 8, 2, 6, 7, 3, 5, 9, 2, 4, 3)
SHORT = sentences_of(*[3, 4] * 6)


# ---------------------------------------------------------------------------------- order, company
@pytest.mark.fast
def test_results_are_in_the_order_of_the_sentences_whatever_the_batch_size(translators, params):
    translator = translators["greedy"]
    alone = [translator.translate(params, [text])[0] for text in MIXED]
    assert len({h[0].text for h in alone}) > len(MIXED) / 2, "or order would not show"
    ticks = []
    assert_same(translator.translate(params, MIXED, progress=ticks.append), alone)
    assert sum(ticks) == len(MIXED)
    assert_same(translator.translate(params, MIXED[::-1]), alone[::-1])
    assert_same(like(translator, batch_size=1).translate(params, MIXED), alone)


def test_company_changes_nothing(translators, params):
    translator, rng = translators["beam"], random.Random(1)
    alone = {text: translator.translate(params, [text])[0] for text in SHORT}
    for _ in range(7):
        some = rng.choices(SHORT, k=rng.randrange(1, 14))
        assert_same(translator.translate(params, some), [alone[text] for text in some])


@pytest.mark.parametrize("method", ["beam", "greedy", "sample"])
def test_batches_side_by_side_are_those_one_by_one(translators, params, monkeypatch, method):
    n_best, threads, found = 1 if method == "greedy" else 3, set(), []
    put = devices.DataParallel.put

    def watched(*given):
        threads.add(threading.get_ident())
        return put(*given)

    monkeypatch.setattr(devices.DataParallel, "put", watched)
    for cores in (1, 2):
        monkeypatch.setattr(devices.os, "cpu_count", lambda cores=cores: cores)
        threads.clear()
        found.append(translators[method].translate(params, MIXED, n_best=n_best))
        assert len(threads) == cores
    assert found[0] == found[1]
    assert len(found[0][0]) == n_best


def greedy_by_definition(models, params, source, limit):
    """The likeliest next piece, again and again, from whole-target logits: (ids, log-probs)."""
    tokens, log_probs, whole = [], [], [jax.jit(m.apply) for m in models]
    excluded = np.isin(np.arange(VOCAB_SIZE), [PAD_ID, UNK_ID, BOS_ID])
    while len(tokens) < limit and EOS_ID not in tokens:
        so_far = np.array([[BOS_ID, *tokens, *[PAD_ID] * (limit - len(tokens))]])
        probs = [
            jax.nn.softmax(apply({"params": p}, source, so_far)[0, len(tokens)])
            for apply, p in zip(whole, params, strict=True)
        ]
        mean = np.mean(probs, axis=0)
        tokens.append(int(np.argmax(np.where(excluded, 0, mean))))
        log_probs.append(np.log(mean[tokens[-1]]))
    return tokens, log_probs


@pytest.mark.parametrize("number", [1, 2], ids=["one model", "an ensemble"])
def test_greedy_is_what_the_whole_model_finds(number):
    """Without cache, batch or buckets; of an ensemble it is the mean of probabilities."""
    configs = [MODEL, dataclasses.replace(MODEL, d_model=12, norm="pre", num_heads=3)]
    models = [Transformer(config, VOCAB_SIZE) for config in configs]
    # Sharp ones, or their mean would be nearly uniform.
    params = [random_params(m, seed, stddev=0.8) for seed, m in enumerate(models)]
    text, decode = sentences_of(4)[0], dataclasses.replace(DECODE, method="greedy")
    alone, found = (
        Translator(models[:n], TOKENIZERS, decode).translate(params[:n], [text])[0][0]
        for n in (1, number)
    )
    source = np.array([[*TOKENIZER.encode([text])[0], EOS_ID]])
    limit = source.shape[1] + DECODE.extra_length
    tokens, log_probs = greedy_by_definition(models[:number], params[:number], source, limit)
    assert found.ids == tuple(tokens)
    np.testing.assert_allclose(found.token_log_probs, log_probs, rtol=1e-4, atol=1e-5)
    assert found.text == TOKENIZER.decode([tokens])[0]
    assert number == 1 or abs(alone.log_prob - found.log_prob) > 0.1, "both are asked"


# ----------------------------------------------------------------------- blank, too long, one line
@pytest.mark.fast
def test_blank_lines_stay_blank_and_too_long_ones_have_none(translators, params):
    longest, too_long = sentences_of(LENGTHS[-1], LENGTHS[-1] + 1)
    lines = [MIXED[0], "", too_long, "  \t ", longest, "\u3000"]
    found = translators["greedy"].translate(params, lines)
    blank = [Hypothesis("", 0.0, 0.0)]
    assert (found[1], found[3], found[5]) == (blank, blank, blank)
    assert found[2] == []
    assert len(found[4]) == 1
    assert_same([found[0]], translators["greedy"].translate(params, [MIXED[0]]))
    assert translators["greedy"].translate(params, []) == []
    assert pieces("▁") == 1, "no more than <eos>"
    assert translators["greedy"].translate(params, ["▁"]) == [blank]


def test_a_translation_is_one_line(translators):
    """<0x0A> is a piece like another, and a line in must be a line out."""
    names = ["▁", "a", "<0x0A>", "b", "<0x0D>", "<0x0A>", "c"]
    ids = [TOKENIZER.vocabulary.index(name) for name in names]
    assert TOKENIZER.decode([ids]) == ["a\nb\r\nc"]
    found = inference_search.SearchResult(
        tokens=np.asarray([[[*ids, EOS_ID]]]),
        log_prob=np.zeros((1, 1)),
        score=np.zeros((1, 1)),
        length=np.asarray([[len(ids) + 1]]),
        token_log_probs=np.zeros((1, 1, len(ids) + 1)),
    )
    assert hypotheses_of(TOKENIZER, found, 1)[0][0].text == "a b  c"


# ------------------------------------------------------------------------------------------ shapes
def compilations(caplog, call):
    caplog.clear()
    jax.config.update("jax_log_compiles", True)  # in all threads, as `log_compiles` is not
    try:
        with caplog.at_level(logging.WARNING, logger="jax"):
            call()
    finally:
        jax.config.update("jax_log_compiles", False)
    return [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()]


SIZES, EXTRA = (1, 2, 4, 8), 5  # rows of a batch; room for 4, 8, 9 and for 9, 14 pieces


def most_programs(lengths):
    """How many there may be: a batch keeps its size or shrinks; its room stays or grows by one."""
    bound, shrinks = Counter(), len(SIZES) * (len(SIZES) - 1) // 2
    for length in lengths:
        rooms = 1 + sum(room < length + EXTRA for room in (length, 2 * length))
        bound.update(start=len(SIZES), advance=len(SIZES) * rooms)
        bound.update(resize=rooms * shrinks + (rooms - 1) * (len(SIZES) + shrinks))
    return bound


def ending_params():
    """With these <eos> is all but certain: a translation ends where its prefix does."""
    params = random_params(Transformer(MODEL, VOCAB_SIZE))
    params["embedding"][EOS_ID] = 100
    norm = params["decoder_0"]["feed_forward_residual"]["norm"]
    norm["scale"][:], norm["bias"][:] = 0, 1
    return [params]


def translate_every_course(translator, lengths):
    """Batches of each size, of which all but so many rows end after so many steps."""
    params = ending_params()
    for length in lengths:
        source, *ends = sentences_of(length, *range(1, length + EXTRA + 1))
        for size, kept, end in itertools.product(SIZES, SIZES, ends):
            prefixes = [end] * (size - kept) + [ends[-1]] * min(size, kept)
            found = translator.translate(params, [source] * size, prefixes=prefixes, n_best=1)
            assert [len(h.ids) for (h,) in found] == [pieces(prefix) for prefix in prefixes]


def translate_fresh_texts(translator, lengths, params):
    """Up to 19 a call, of all lengths, by two models of which one ends where the prefixes do."""
    for seed in range(30):
        rng = random.Random(seed)
        counts = rng.choices(range(1, lengths[-1] + 1), k=rng.randrange(1, 20))
        sources = sentences_of(*counts, seed=seed)
        prefixes = sentences_of(*(rng.randrange(1, n + EXTRA + 1) for n in counts), seed=-seed)
        for some in (params, ending_params()):
            translator.translate(some, sources, prefixes=prefixes)


@pytest.mark.parametrize(
    ("method", "lengths"), [("beam", LENGTHS[:1]), ("greedy", LENGTHS), ("sample", LENGTHS[:1])]
)
def test_a_closed_set_of_programs(caplog, monkeypatch, params, method, lengths):
    """Whatever is translated, and whenever its sentences are done."""
    monkeypatch.setattr(batch_search, "FEWEST_ROWS", SIZES[0])
    monkeypatch.setattr(batching, "SOURCE_LENGTHS", lengths)
    options = {"batch_size": SIZES[-1], "extra_length": EXTRA, "length_penalty": 0.0}
    translator = make_translator(method=method, **options)
    messages = compilations(caplog, lambda: translate_every_course(translator, lengths))
    programs = Counter(re.search(r"Compiling (?:jit\()?(\w+)", text)[1] for text in messages)
    for name, most in most_programs(lengths).items():
        assert most / 2 < programs[name] <= most, name
    assert compilations(caplog, lambda: translate_fresh_texts(translator, lengths, params)) == []
    assert compilations(caplog, lambda: jax.jit(lambda x: 7 * x)(3)), "or this counts nothing"


@pytest.mark.parametrize(
    ("max_positions", "lengths"), [(64, (4, 9)), (9, (4, 7)), (6, (4,)), (3, (1,))]
)
def test_learned_positions_limit_the_source(max_positions, lengths):
    model = dataclasses.replace(MODEL, positions="learned", max_positions=max_positions)
    assert make_translator(model=model)._lengths == lengths


def test_what_learned_positions_are_too_few_for():
    model = dataclasses.replace(MODEL, positions="learned", max_positions=5)
    params = [random_params(Transformer(model, VOCAB_SIZE))]
    translator = make_translator(model=model, method="greedy")
    fits, too_long = translator.translate(params, sentences_of(3, 4))
    assert len(fits) == 1
    assert np.isfinite(fits[0].score)
    assert too_long == []
    message = refused(make_translator, model=model, extra_length=5)
    assert "decode.extra_length=5" in message and "model.max_positions=5" in message


# --------------------------------------------------------------------------------- sampling, n best
def test_the_seed_decides_what_is_sampled(translators, params):
    translator = translators["sample"]
    first = translator.translate(params, SHORT)
    assert_same(translator.translate(params, SHORT), first)
    assert_same(like(translator).translate(params, SHORT), first)
    other = like(translator, seed=1).translate(params, SHORT)
    differing = sum(a[0].text != b[0].text for a, b in zip(first, other, strict=True))
    assert differing > len(SHORT) / 2
    equal = translator.translate(params, [SHORT[0]] * 10)
    assert len({h[0].text for h in equal}) > 2, "each sentence is drawn apart"


@pytest.mark.fast
def test_the_n_best_come_best_first_with_their_pieces_and_log_probs(translators, params):
    for hypotheses in translators["beam"].translate(params, SHORT):
        assert 1 < len(hypotheses) <= DECODE.beam_size
        scores = [h.score for h in hypotheses]
        assert scores == sorted(scores, reverse=True)
        for h in hypotheses:
            assert h.log_prob < 0
            assert len(h.ids) == len(h.token_log_probs)
            assert EOS_ID not in h.ids[:-1] and not {PAD_ID, BOS_ID} & set(h.ids)
            np.testing.assert_allclose(sum(h.token_log_probs), h.log_prob, rtol=1e-5)
            assert TOKENIZER.decode([h.ids]) == [h.text]
    for method in ("greedy", "sample"):  # without a beam there is one
        assert {len(h) for h in translators[method].translate(params, SHORT)} == {1}


def test_fewer_translations_are_the_first_of_all(translators, params):
    every = translators["beam"].translate(params, MIXED)
    for n_best in (1, 2):
        found = translators["beam"].translate(params, MIXED, n_best=n_best)
        assert found == [row[:n_best] for row in every]


# ------------------------------------------------------------------------------ prefixes, ensembles
def test_a_translation_begins_with_its_prefix(translators, params):
    begins = ["She", "", "The", "a b", "Is", ""]
    for method, translator in translators.items():
        free = translator.translate(params, SHORT[:6])
        found = translator.translate(params, SHORT[:6], prefixes=begins)
        for begin, hypotheses in zip(begins, found, strict=True):
            assert all(h.text.startswith(begin) for h in hypotheses)
        assert sum(f[0].text != h[0].text for f, h in zip(free, found, strict=True)) == 4
        # Beside forced rows, a free one is translated as ever.
        assert_same([found[1], found[5]], [free[1], free[5]])
        (ids,) = translator.tokenizers.target.encode([begins[0]])
        assert found[0][0].ids[: len(ids)] == tuple(ids), method
    source = sentences_of(4)[0]  # 4 tokens with <eos>: room for 6
    target = translators["greedy"].tokenizers.target
    begins = [" ".join("abcdefgh"[:n]) for n in range(1, 9)]
    found = translators["greedy"].translate(params, [source] * 8, prefixes=begins)
    fits = [len(ids) < 4 + DECODE.extra_length for ids in target.encode(begins)]
    assert True in fits and False in fits
    assert [bool(h) for h in found] == fits


def test_an_ensemble_of_one_model_twice_is_that_model(params):
    model = Transformer(MODEL, VOCAB_SIZE)
    twice = Translator([model, model], TOKENIZERS, DECODE).translate([*params, *params], SHORT[:5])
    once = Translator([model], TOKENIZERS, DECODE).translate(params, SHORT[:5])
    assert_same(twice, once)
