"""Exported models in CTranslate2 give our log-probabilities and our translations."""

import functools
import json

import jax
import numpy as np
import pytest
import sacrebleu
from launching import launch
from toy import random_params

import transformer_jax as tj
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID
from transformer_jax.data import corpora
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers, train_tokenizer
from transformer_jax.functional.probabilities import token_log_probs
from transformer_jax.inference.batching import SOURCE_LENGTHS, padded
from transformer_jax.inference.trained import load
from transformer_jax.inference.translator import Translator
from transformer_jax.interop.ctranslate2 import export_ctranslate2
from transformer_jax.model.transformer import Transformer

ctranslate2 = pytest.importorskip("ctranslate2", reason="it is the peer")


# ------------------------------------------------------------------------- every kind of model
BASE = {"num_layers": 2, "d_model": 10, "d_ff": 13, "num_heads": 2}
MODELS = {
    "the paper's": {},
    "three layers, then one": {"num_encoder_layers": 3, "num_decoder_layers": 1},
    "one layer, then two": {"num_encoder_layers": 1},
    "one layer, pre-norm": {"num_layers": 1, "norm": "pre", "layer_norm_epsilon": 1e-2},
    "post-norm, large epsilon": {"layer_norm_epsilon": 1e-2},
    "sines, then cosines": {"sinusoid_layout": "halves"},
    "learned positions": {"positions": "learned", "max_positions": 17},
    "GELU": {"activation": "gelu"},
    "swish": {"activation": "swish"},
    "attention biases": {"attention_bias": True},
    "logits bias": {"logits_bias": True},
    "embeddings not scaled": {"scale_embeddings": False},
    "softmax apart": {"tied_embeddings": "source_target"},
    "source apart": {"tied_embeddings": "target_softmax"},
    "nothing tied": {"tied_embeddings": "none"},
    "heads of another width": {"num_heads": 3, "d_key": 7, "d_value": 7},
    "all of it": {
        **{"norm": "pre", "positions": "learned", "max_positions": 17, "activation": "swish"},
        **{"attention_bias": True, "logits_bias": True, "scale_embeddings": False},
        **{"tied_embeddings": "none", "num_heads": 5, "d_key": 3, "d_value": 3},
    },
}
SEPARATE = ("target_softmax", "none")


@pytest.fixture(scope="module")
def sentencepiece_model():
    texts = (english for _, english in grammar.pairs("train", size=50))
    return train_tokenizer(texts, vocab_size=350).model


def words(model, size):
    return Tokenizer(model, ["<pad>", "<unk>", "<s>", "</s>", *map(str, range(4, size))])


def padded_rows(rows):
    return padded(rows, (len(rows), max(map(len, rows))))


def largest_difference(config, sentencepiece_model, folder, lengths):
    """Of the log-probabilities of random translations; lengths are of sources and targets."""
    sizes = (61, 53) if config.model.tied_embeddings in SEPARATE else (53, 53)
    tokenizers = Tokenizers(*(words(sentencepiece_model, size) for size in sizes))
    model = Transformer(config.model, sizes[1], sizes[0])
    params = random_params(model)
    export_ctranslate2(config, params, tokenizers, folder)
    rng = np.random.default_rng(1)
    sources, targets = (
        [rng.integers(4, size, row[side]).tolist() for row in lengths]
        for side, size in enumerate(sizes)
    )
    named = [
        [[tokenizer.vocabulary[i] for i in ids] for ids in side]
        for side, tokenizer in zip((sources, targets), tokenizers, strict=True)
    ]
    peer = ctranslate2.Translator(str(folder), device="cpu", compute_type="float32")
    theirs = peer.score_batch(*named, max_input_length=0)
    source = padded_rows([[*ids, EOS_ID] for ids in sources])
    target = padded_rows([[BOS_ID, *ids] for ids in targets])
    labels = padded_rows([[*ids, EOS_ID] for ids in targets])
    logits = jax.jit(model.apply)({"params": params}, source, target)
    ours = np.asarray(token_log_probs(logits, labels, pad_id=PAD_ID))[labels != PAD_ID]
    assert ours.std() > 0.3  # something to be wrong about
    return np.abs(ours - np.concatenate([found.log_probs for found in theirs])).max()


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities(name, sentencepiece_model, tmp_path, measure):
    config = tj.Config(model=tj.ModelConfig(**(BASE | MODELS[name])))
    lengths = [(7, 5), (1, 11), (13, 3)]
    found = largest_difference(config, sentencepiece_model, tmp_path / "model", lengths)
    measure("CTranslate2", "log-probability of a piece, float32", found, 1e-5)


def test_the_longest_sentences(sentencepiece_model, tmp_path, measure):
    config = tj.Config(model=tj.ModelConfig(**(BASE | {"num_layers": 1})))
    longest = SOURCE_LENGTHS[-1]
    lengths = [(longest - 1, longest + config.decode.extra_length - 1)]
    found = largest_difference(config, sentencepiece_model, tmp_path / "model", lengths)
    measure("CTranslate2", "log-probability of a piece, 1,074 pieces", found, 1e-5)


# ---------------------------------------------------------------------------- a trained model
OPTIONS = {
    "data.train_size": 15_000,
    "data.vocab_size": 900,
    "model.d_model": 64,
    "model.d_ff": 256,
    "optimizer.learning_rate_scale": 8e-3,
    "train.steps": 320,
    "train.checkpoint_every": 320,
    "train.evaluate_every": 0,
    "train.average_checkpoints": 1,
    "decode.method": "greedy",
}
# What our decoder does: a translation may be empty, and never has <pad>, <s> or <unk>.
LIKE_OURS = {
    "beam_size": 4,
    "min_decoding_length": 0,
    "suppress_sequences": [["<pad>"], ["<s>"]],
    "disable_unk": True,
    "return_scores": True,
}
SENTENCES = 200


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of 320 steps, which still hesitates: searching matters."""
    workdir = tmp_path_factory.mktemp("runs") / "small"
    flags = [f"--config.{name}={value}" for name, value in OPTIONS.items()]
    # The tests' own setting would compile a slow program.
    options = {"real": True, "variables": {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}}
    done = launch(f"--workdir={workdir}", *flags, **options)
    assert done.returncode == 0, done.stderr
    scores = json.loads((workdir / "evaluation" / "test" / "scores.json").read_text())
    assert scores["bleu"] > 55
    return load(workdir, weights="average")


@pytest.fixture(scope="module")
def pairs(trained):
    return corpora.load_split(trained.config.data, "test").pairs


@pytest.fixture(scope="module")
def folders(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    exported = trained.config, trained.params, trained.tokenizers
    for name in ("", "int8"):
        export_ctranslate2(*exported, folder / (name or "float32"), quantization=name)
    return folder


@pytest.fixture(scope="module")
def ours(trained, pairs):
    """ours(length_penalty): (text, score) of the first sentences."""
    sources = [source for source, _ in pairs[:SENTENCES]]

    @functools.cache
    def search(length_penalty):
        options = {"method": "beam", "beam_size": 4, "length_penalty_form": "power"}
        decode = tj.DecodeConfig(length_penalty=length_penalty, **options)
        translator = Translator(trained.transformers, trained.tokenizers, decode)
        found = translator.translate(trained.all_params, sources)
        return [(hypotheses[0].text, hypotheses[0].score) for hypotheses in found]

    return search


def theirs(trained, folder, sentences, **options):
    """(text, score) of each."""
    compute_type = "int8" if folder.name == "int8" else "float32"
    peer = ctranslate2.Translator(str(folder), device="cpu", compute_type=compute_type)
    sources = [trained.tokenizers.source.pieces(sentence) for sentence in sentences]
    results = [None] * len(sources)
    for length in set(map(len, sources)):  # a batch has one limit
        numbers = [n for n, pieces in enumerate(sources) if len(pieces) == length]
        limit = length + 1 + trained.config.decode.extra_length
        batch = peer.translate_batch(
            [sources[n] for n in numbers], max_decoding_length=limit, **(LIKE_OURS | options)
        )
        for n, found in zip(numbers, batch, strict=True):
            ids = [trained.tokenizers.target.vocabulary.index(p) for p in found.hypotheses[0]]
            results[n] = trained.tokenizers.target.decode([ids])[0], found.scores[0]
    return results


@pytest.mark.parametrize("length_penalty", [0.0, 0.6])
def test_translations(trained, folders, pairs, ours, measure, length_penalty):
    sources = [source for source, _ in pairs[:SENTENCES]]
    peer = theirs(trained, folders / "float32", sources, length_penalty=length_penalty, patience=5)
    differing = sum(a != b for (a, _), (b, _) in zip(ours(length_penalty), peer, strict=True))
    measure("CTranslate2", "share of translations that differ", differing / SENTENCES, 0.01)


def test_its_usual_early_stop_never_finds_better(trained, folders, pairs, ours, measure):
    sources = [source for source, _ in pairs[:SENTENCES]]
    peer = theirs(trained, folders / "float32", sources, length_penalty=0.6)
    differing = [(a, b) for a, b in zip(ours(0.6), peer, strict=True) if a[0] != b[0]]
    assert differing
    for (_, score), (_, other) in differing:
        # Theirs shares out the probability of <pad> and <s>, which flatters it by a little.
        assert score > other - 0.005
    share = len(differing) / SENTENCES
    measure("CTranslate2", "share that differ when it stops early", share, 0.1)


def test_int8_costs_little(trained, folders, pairs, measure):
    sources, references = map(list, zip(*pairs, strict=True))
    bleu = [
        sacrebleu.corpus_bleu(
            [text for text, _ in theirs(trained, folders / name, sources, length_penalty=0.6)],
            [references],
        ).score
        for name in ("float32", "int8")
    ]
    measure("CTranslate2", "BLEU that int8 costs", abs(bleu[0] - bleu[1]), 0.5)
