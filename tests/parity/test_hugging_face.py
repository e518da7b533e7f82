"""Hugging Face's MarianMTModel and MarianTokenizer agree with ours, imported and exported."""

import json

import jax
import numpy as np
import pytest
from toy import random_params, search

from transformer_jax.config.files import load_config
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Config, ModelConfig
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizer, train_tokenizers
from transformer_jax.functional.positions import sinusoidal_positions
from transformer_jax.inference.trained import load
from transformer_jax.inference.weights import load_weights
from transformer_jax.interop.marian import export_marian, import_marian
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.devices import one_device
from transformer_jax.training.step import create_state

torch = pytest.importorskip("torch", reason="the peer; `make parity` installs it")
transformers = pytest.importorskip("transformers", reason="the peer; `make parity` installs it")
pytest.importorskip("safetensors", reason="Marian's files need it; `make parity` installs it")
torch.set_num_threads(2)

D, F, HEADS, V = 14, 19, 7, 29
PEER = "Hugging Face Marian"
SOURCE_LENGTHS, TARGET_LENGTHS = (13, 5, 11), (7, 11, 3)


def random_marian(folder, seed=3, **options):
    """A model with every weight drawn, saved in `folder`."""
    torch.manual_seed(seed)
    size = options.get("decoder_vocab_size", V)
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", 2), ("attention_heads", HEADS), ("ffn_dim", F))
    }
    ids = {"pad_token_id": size - 1, "decoder_start_token_id": size - 1, "eos_token_id": 0}
    options = {"activation_function": "swish", "scale_embedding": True} | options
    model = transformers.MarianMTModel(
        transformers.MarianConfig(**({"vocab_size": V, "d_model": D} | sides | ids | options))
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" in name:
                continue
            is_scale = "norm" in name and name.endswith("weight")
            weight.normal_(0.0, D**-0.5 if weight.ndim == 2 else 0.3).add_(1.0 if is_scale else 0.0)
        model.final_logits_bias.normal_(0.0, 1.0)
    model.save_pretrained(folder)
    return model


def workdir_model(workdir, vocab_sizes):
    """The model and parameters of a workdir without a tokenizer; sizes of source and target."""
    config = load_config(workdir / "config.json")
    model = Transformer(config.model, vocab_sizes[1], vocab_sizes[0])
    like = jax.eval_shape(lambda: create_state(config, model)).params
    params, _ = load_weights(workdir, config.train, "average", like, one_device().replicated)
    return model, params


def ragged(lengths, size, first=None, last=None):
    """Ids in Marian's order, [B, longest], padded with size - 1, and a mask of what is real."""
    rng = np.random.default_rng(11)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    tokens = np.where(mask, rng.integers(1, size - 1, mask.shape), size - 1)
    if first is not None:
        tokens[:, 0] = first
    if last is not None:
        tokens[np.arange(len(lengths)), np.array(lengths) - 1] = last
    return tokens, mask


def our_rows(size, pad):
    """Of Marian's ids: eos 0, unk 1, the rest, with pad among them."""
    rest = [*range(4, size + 1)]
    return np.array([EOS_ID, UNK_ID, *rest[: pad - 2], PAD_ID, *rest[pad - 2 :]])


def ours(tokens, mask, rows, start=None):
    """Marian's ids as ours."""
    found = np.where(mask, rows[tokens], PAD_ID).astype(np.int32)
    if start is not None:
        found[:, 0] = BOS_ID
    return found


def their_logits(model, source, source_mask, target):
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(source),
            attention_mask=torch.tensor(source_mask, dtype=torch.long),
            decoder_input_ids=torch.tensor(target),
        ).logits.numpy()


def difference(model, params, peer, size):
    """Of teacher-forced logits, at real positions, <bos> apart."""
    source, source_mask = ragged(SOURCE_LENGTHS, V, last=0)
    source[source == size - 1] = 4  # the one id of padding serves both sides
    target, target_mask = ragged(TARGET_LENGTHS, size, first=size - 1)
    theirs = their_logits(peer, source, source_mask, target)
    columns = our_rows(size, size - 1)
    found = model.apply(
        {"params": params},
        ours(source, source_mask, our_rows(V, size - 1)),
        ours(target, target_mask, columns, start=1),
    )
    return np.abs(np.asarray(found)[..., columns] - theirs)[target_mask].max()


UNTIED = {"share_encoder_decoder_embeddings": False}


@pytest.mark.parametrize(
    ("options", "tied"),
    [
        ({}, "all"),
        ({"activation_function": "relu"}, "all"),
        ({"activation_function": "gelu", "scale_embedding": False}, "all"),
        ({"tie_word_embeddings": False}, "none"),  # transformers 5 then ties nothing at all
        (UNTIED | {"decoder_vocab_size": 23}, "target_softmax"),
        (UNTIED | {"tie_word_embeddings": False, "scale_embedding": False}, "none"),
        ({"encoder_layers": 3, "decoder_layers": 1}, "all"),
        ({"encoder_layers": 1}, "all"),
    ],
)
def test_logits_are_marians_imported_and_exported_again(tmp_path, measure, options, tied):
    size = options.get("decoder_vocab_size", V)
    peer = random_marian(tmp_path / "m", **options)
    import_marian(tmp_path / "m", tmp_path / "w")
    model, params = workdir_model(tmp_path / "w", (V + 1, size + 1))
    assert model.config.tied_embeddings == tied
    measure(PEER, "logits of an imported model", difference(model, params, peer, size), 1e-4)
    export_marian(load_config(tmp_path / "w" / "config.json"), params, None, tmp_path / "out")
    again = transformers.MarianMTModel.from_pretrained(tmp_path / "out").eval()
    for name, weight in peer.state_dict().items():
        if "shared" in name and "tie_word_embeddings" in options:
            continue  # untied, the model does not read it
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), weight.numpy(), name)


def our_config(tied="all", **options):
    config = Config()
    config.model = ModelConfig(
        **options,
        **{"num_layers": 2, "d_model": D, "d_ff": F, "num_heads": HEADS, "activation": "gelu"},
        **{"layer_norm_epsilon": 1e-5, "sinusoid_layout": "halves", "tied_embeddings": tied},
    )
    config.data.vocab_size = V
    return config


DEPTHS = [{"num_decoder_layers": 1}, {"num_encoder_layers": 1, "num_decoder_layers": 3}]


@pytest.mark.parametrize(
    ("tied", "depths"),
    [("all", {}), ("source_target", {}), ("target_softmax", {}), ("none", {})]
    + [("all", depths) for depths in DEPTHS],
)
def test_an_exported_model_of_ours_gives_our_logits(tmp_path, measure, tied, depths):
    config = our_config(tied, **depths)
    model = Transformer(config.model, V)
    params = random_params(model)
    export_marian(config, params, None, tmp_path / "m")
    peer = transformers.MarianMTModel.from_pretrained(tmp_path / "m").eval()
    source, source_mask = ragged(SOURCE_LENGTHS, V, last=EOS_ID)
    target, target_mask = ragged(TARGET_LENGTHS, V, first=BOS_ID)
    source, target = (
        np.where(mask, np.where(tokens == PAD_ID, 5, tokens), PAD_ID)
        for tokens, mask in ((source, source_mask), (target, target_mask))
    )
    row = [*range(4, V), BOS_ID, PAD_ID]
    of_ours = np.argsort([EOS_ID, UNK_ID, *row])  # their id of each of ours
    theirs = their_logits(peer, of_ours[source], source_mask, of_ours[target])[..., of_ours]
    found = np.asarray(model.apply({"params": params}, source, target))
    largest = np.abs(found - theirs)[target_mask].max()
    measure(PEER, "logits of an exported model", largest, 1e-4)


def marian_that_ends(folder, eos_bias):
    """A model whose hypotheses end, at various lengths: as a rule a random one repeats itself."""
    peer = random_marian(folder, seed=5, tie_word_embeddings=False, scale_embedding=False)
    with torch.no_grad():
        peer.lm_head.weight.mul_(2)
        # Along a sine and cosine of position that turn by a quarter in the first 20 tokens.
        peer.lm_head.weight[0, 2] += 6
        peer.lm_head.weight[0, D // 2 + 2] -= 6
        peer.final_logits_bias[0, 0] = eos_bias
    peer.save_pretrained(folder)
    return peer


SPECIAL = {"eos_token_id": 0, "pad_token_id": V - 1, "decoder_start_token_id": V - 1}


def hypotheses(peer, source, mask, asked):
    """What Hugging Face finds, and its sequences as our tokens, int32 [B, beams, longest]."""
    inputs = {"input_ids": torch.tensor(source), "attention_mask": torch.tensor(mask).long()}
    outputs = {"num_return_sequences": asked.num_beams, "return_dict_in_generate": True}
    found = peer.generate(**inputs, generation_config=asked, output_scores=True, **outputs)
    sequences = found.sequences[:, 1:].numpy().reshape(len(source), asked.num_beams, -1)
    is_real = np.cumsum(sequences == 0, axis=-1) - (sequences == 0) == 0  # up to its first eos
    return found, ours(sequences, is_real, our_rows(V, V - 1))


@pytest.mark.parametrize("eos_bias", [0.0, -2.0])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_beam_search_finds_hugging_faces_translations(tmp_path, measure, alpha, eos_bias):
    """Token for token, for all four hypotheses.

    Hugging Face divides by the number of generated tokens to the power of alpha, as we do: its
    length leaves out the start token. Its max_length counts that token, max_new_tokens does not.
    """
    extra, beams = 17, 4
    peer = marian_that_ends(tmp_path / "m", eos_bias)
    import_marian(tmp_path / "m", tmp_path / "w")
    model, params = workdir_model(tmp_path / "w", (V + 1, V + 1))
    source, mask = ragged(SOURCE_LENGTHS, V, last=0)
    options = {"num_beams": beams, "length_penalty": alpha, "early_stopping": "never"}
    options |= {"bad_words_ids": [[V - 1]], "max_new_tokens": min(SOURCE_LENGTHS) + extra}
    asked = transformers.GenerationConfig(**options, **SPECIAL)
    theirs, expected = hypotheses(peer, source, mask, asked)
    tokens = ours(source, mask, our_rows(V, V - 1))
    options = {"beam_size": beams, "extra_length": extra, "length_penalty": alpha}
    found = search(model, params, tokens, length_penalty_form="power", **options)
    # They end before either limit, so that it does not matter that ours is each row's own.
    last = np.take_along_axis(found.tokens, found.length[..., None] - 1, axis=-1)
    assert (last == EOS_ID).all()
    assert found.length.max() < min(SOURCE_LENGTHS) + extra
    assert len(set(found.length.ravel().tolist())) > 3
    width = expected.shape[-1]
    np.testing.assert_array_equal(found.tokens[..., :width], expected)
    assert (found.tokens[..., width:] == PAD_ID).all()
    scores = theirs.sequences_scores.numpy().reshape(len(source), beams)
    measure(PEER, "scores of beam search", np.abs(found.score - scores).max(), 1e-4)


CONSTRAINTS = {
    "bigrams": {"no_repeat_ngram_size": 2},
    "penalty": {"repetition_penalty": 1.7},
    "bad words": {"bad_words_ids": [[V - 1], [1], [5], [12, 21], [V - 1, 12], [21, 21, 21]]},
    "first piece": {"forced_bos_token_id": 7},
    "length": {"max_length": 7},
    "all": {
        **{"no_repeat_ngram_size": 3, "repetition_penalty": 1.3, "forced_bos_token_id": 5},
        **{"max_length": 11, "bad_words_ids": [[V - 1], [1], [6, 7], [5, 13]]},
    },
}


MORE = {
    "pieces": {"no_repeat_ngram_size": 1},
    "long n-grams": {"no_repeat_ngram_size": 5},
    "reward": {"repetition_penalty": 0.7},
    "bad first words": {"bad_words_ids": [[V - 1], [1], *([V - 1, i] for i in range(2, 23))]},
    "new pieces": {"max_length": None, "max_new_tokens": 5},
}


@pytest.mark.parametrize(
    ("asked_for", "beams"),
    [(options, beams) for options in CONSTRAINTS.values() for beams in (1, 4)]
    + [(options, 3) for options in MORE.values()],
    ids=str,
)
def test_what_generation_config_asks_for_is_done_as_hugging_face_does(tmp_path, asked_for, beams):
    """Token for token, for all hypotheses; the file of options is what both read."""
    peer = marian_that_ends(tmp_path / "m", -2.0)
    plain = SPECIAL | {"num_beams": beams, "bad_words_ids": [[V - 1], [1]], "max_length": 31}
    plain |= {"forced_eos_token_id": 0}
    if beams > 1:
        plain |= {"early_stopping": "never", "length_penalty": 0.7}
    asked = transformers.GenerationConfig(**plain | asked_for)
    asked.save_pretrained(tmp_path / "m")
    import_marian(tmp_path / "m", tmp_path / "w")
    model, params = workdir_model(tmp_path / "w", (V + 1, V + 1))
    decode = load_config(tmp_path / "w" / "config.json").decode
    decode.extra_length = 31
    source, mask = ragged(SOURCE_LENGTHS, V, last=0)
    _, expected = hypotheses(peer, source, mask, asked)
    _, unlike = hypotheses(peer, source, mask, transformers.GenerationConfig(**plain))
    assert expected.shape != unlike.shape or (expected != unlike).any()
    found = search(model, params, ours(source, mask, our_rows(V, V - 1)), **vars(decode))
    np.testing.assert_array_equal(found.tokens[..., : expected.shape[-1]], expected)


def test_sinusoids_are_marians(tmp_path, measure):
    peer = random_marian(tmp_path / "m")
    theirs = peer.model.encoder.embed_positions.weight.numpy()
    found = np.asarray(sinusoidal_positions(np.arange(len(theirs)), D, layout="halves"))
    assert len(theirs) == 1024
    measure(PEER, "sinusoids to position 1023", np.abs(found - theirs).max(), 1e-4)


TEXTS = ["I have a cat.", "我有一只猫。", "Zebra ½ 猫 déjà vu", "a"]


@pytest.mark.parametrize("shared", [True, False])
def test_marians_tokenizer_reads_our_export(tmp_path, shared):
    """The same pieces of both sides; what is rare falls back to bytes."""
    pairs = grammar.pairs("train", size=50)
    sides = zip(zip(*pairs, strict=True), (500, 450), strict=True)
    tokenizers = Tokenizers(*(train_tokenizer(side, vocab_size=n) for side, n in sides))
    if shared:
        tokenizers = train_tokenizers(pairs, vocab_size=800, shared=True)
    sizes = [tokenizer.vocab_size for tokenizer in tokenizers]
    config = our_config("all" if shared else "target_softmax")
    config.data.vocab_size, config.data.shared_vocabulary = sizes[1], shared
    config.data.target_language, config.decode.length_penalty_form = "en", "power"
    params = random_params(Transformer(config.model, sizes[1], sizes[0]))
    export_marian(config, params, tokenizers, tmp_path / "m")
    theirs = transformers.MarianTokenizer.from_pretrained(tmp_path / "m")
    import_marian(tmp_path / "m", tmp_path / "w")
    loaded = load(tmp_path / "w")
    for side, name in ((0, "vocab.json"), (1, "vocab.json" if shared else "target_vocab.json")):
        vocabulary = json.loads((tmp_path / "m" / name).read_text(encoding="utf-8"))
        names = {i: piece for piece, i in vocabulary.items()}
        assert len(names) == sizes[side]
        ids = theirs(TEXTS).input_ids if side == 0 else theirs(text_target=TEXTS).input_ids
        for text, row, mine in zip(TEXTS, ids, loaded.tokenizers[side].encode(TEXTS), strict=True):
            assert [names[i] for i in row[:-1]] == [tokenizers[side].vocabulary[i] for i in mine]
            assert row[-1] == vocabulary["</s>"]
            assert mine == tokenizers[side].encode([text])[0]
            assert loaded.tokenizers[side].decode([mine]) == tokenizers[side].decode([mine])
