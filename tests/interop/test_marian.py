"""Marian import and export: ids, tensors, files, and what is refused. Needs no transformers."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from flax import traverse_util
from launching import refused
from opus import HEADS, D, F, layer, write_json
from toy import assert_same_bits, random_params

import transformer_jax as tj
from transformer_jax.config.files import load_config
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Config, ModelConfig
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizer, train_tokenizers
from transformer_jax.inference.weights import load_weights
from transformer_jax.interop.marian import export_marian, import_marian
from transformer_jax.interop.marian_generation import to_decode
from transformer_jax.interop.marian_weights import SpecialIds, export_order, import_order
from transformer_jax.interop.requirements import require_package
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.devices import one_device
from transformer_jax.training.step import create_state

safetensors = pytest.importorskip(
    "safetensors.numpy", reason="Marian's files need it: pip install safetensors"
)

V = 13
OURS = {"layer_norm_epsilon": 1e-5, "sinusoid_layout": "halves"}
OPTIONS = {
    **{"model_type": "marian", "vocab_size": V, "d_model": D, "activation_function": "swish"},
    **{"encoder_layers": 2, "encoder_attention_heads": HEADS, "encoder_ffn_dim": F},
    **{"decoder_layers": 2, "decoder_attention_heads": HEADS, "decoder_ffn_dim": F},
    **{"pad_token_id": V - 1, "eos_token_id": 0, "decoder_start_token_id": V - 1},
    **{"scale_embedding": True, "dropout": 0.25},
}


def random_tensors(dtype=np.float32, tables=("model.shared.weight",), sizes=None):
    """Tensors by the names that Hugging Face's files have."""
    sizes = sizes or {}
    shapes = {name: (sizes.get(name, V), D) for name in tables}
    for n in range(2):
        shapes |= layer(f"model.encoder.layers.{n}", ["self_attn"])
        shapes |= layer(f"model.decoder.layers.{n}", ["self_attn", "encoder_attn"])
    shapes["final_logits_bias"] = (1, sizes.get("final_logits_bias", V))
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def marian_folder(folder, tensors=None, **options):
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {k: v for k, v in (OPTIONS | options).items() if v != "no"})
    tensors = random_tensors() if tensors is None else tensors
    safetensors.save_file(tensors, folder / "model.safetensors")
    return folder


def add_tokenizers(folder, separate=False):
    """SentencePiece models, a vocabulary of V pieces, languages, and options of generation."""
    pairs = grammar.pairs("train", size=50)
    for tokenizer, name in zip(
        train_tokenizers(pairs, vocab_size=500, shared=False), ("source", "target"), strict=True
    ):
        tokenizer.save(folder / f"{name}.spm")
    pieces = ["</s>", "<unk>", "▁", "▁a", "e", "o", "t", "▁h", "我", "有", ".", "。", "<pad>"]
    write_json(folder / "vocab.json", {piece: i for i, piece in enumerate(pieces)})
    if separate:
        write_json(folder / "target_vocab.json", {piece: i for i, piece in enumerate(pieces)})
    languages = {"source_lang": "zho", "target_lang": "eng"}
    write_json(folder / "tokenizer_config.json", languages | {"separate_vocabs": separate})
    generation = {"num_beams": 6, "length_penalty": 0.5}
    write_json(folder / "generation_config.json", generation)


def imported(workdir):
    """The config, the model and the parameters of a workdir."""
    config = load_config(workdir / "config.json")
    sizes = {"source": config.data.vocab_size, "target": config.data.vocab_size}
    if (workdir / "vocabularies.json").exists():
        for side, tokenizer in zip(sizes, Tokenizers.load(workdir), strict=True):
            sizes[side] = tokenizer.vocab_size
    model = Transformer(config.model, sizes["target"], sizes["source"])
    return config, model, params_in(workdir, model)


def params_in(workdir, model):
    config = Config(model=model.config)
    like = jax.eval_shape(lambda: create_state(config, model)).params
    where = one_device().replicated
    params, steps = load_weights(workdir, config.train, "average", like, where)
    assert steps == [0]
    return params


def import_tensors(tmp_path, tensors=None, **options):
    """The config, the model and the parameters that tensors and options become."""
    import_marian(marian_folder(tmp_path / "m", tensors, **options), tmp_path / "w")
    return imported(tmp_path / "w")


def refuses(folder, workdir, *words):
    message = refused(import_marian, folder, workdir)
    assert all(word in message for word in words), message
    assert not (workdir / "config.json").exists()


# Ids


def test_the_rows_of_the_worked_example():
    ids = SpecialIds(pad=5, unk=1, eos=0, start=5)
    order = import_order(6, ids)
    theirs = ["</s>", "<unk>", "▁a", "▁cat", "▁dog", "<pad>"]
    assert [theirs[row] for row in order] == (
        ["<pad>", "<unk>", "<pad>", "</s>", "▁a", "▁cat", "▁dog"]
    )
    ours = ["<pad>", "<unk>", "<s>", "</s>", "▁a", "▁cat", "▁dog"]
    assert [ours[row] for row in export_order(7, drop_bos=True, pad=5)] == theirs


@pytest.mark.parametrize("start", [2, 7, 10])
def test_orders_are_inverse_wherever_marian_has_its_ids(start):
    ids = SpecialIds(pad=7, unk=4, eos=2, start=start)
    order = import_order(11, ids)
    assert [order[i] for i in (PAD_ID, UNK_ID, EOS_ID, BOS_ID)] == [7, 4, 2, start]
    drop = start != 10  # a token of its own is no copy
    assert len(order) == 11 + drop
    back = [order[row] for row in export_order(len(order), drop_bos=drop, pad=10)]
    ordinary = [i for i in range(11) if i not in (7, 4, 2, start)]
    assert back == [2, 4, *ordinary, *([] if drop else [10]), 7]


# Import


def test_a_table_and_its_bias_come_in_our_order(tmp_path):
    tensors = random_tensors()
    _, _, params = import_tensors(tmp_path, tensors)
    rows = [V - 1, 1, V - 1, 0, *range(2, V - 1)]
    assert np.array_equal(params["embedding"], tensors["model.shared.weight"][rows])
    bias = tensors["final_logits_bias"][0, rows]
    bias[BOS_ID] = -100
    assert np.array_equal(params["logits_bias"], bias)


def test_heads_are_consecutive_columns_of_marians_projections(tmp_path):
    tensors = random_tensors()
    _, _, params = import_tensors(tmp_path, tensors)
    attention = jax.tree.map(np.asarray, params["decoder_1"]["cross_attention"])
    theirs = "model.decoder.layers.1.encoder_attn."
    x = np.arange(1, D + 1, dtype=np.float64)  # the sums cancel: in float32 they lose digits
    for ours, name in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        projected = tensors[f"{theirs}{name}.weight"] @ x + tensors[f"{theirs}{name}.bias"]
        for head in range(HEADS):
            mine = x @ attention[f"{ours}_kernel"][:, head] + attention[f"{ours}_bias"][head]
            np.testing.assert_allclose(mine, projected[2 * head : 2 * head + 2], rtol=1e-9)
    merged = np.einsum("nh,nhd->d", x.reshape(HEADS, 2), attention["output_kernel"])
    np.testing.assert_allclose(merged, tensors[f"{theirs}out_proj.weight"] @ x, rtol=1e-9)


def test_options_and_pieces_become_ours(tmp_path):
    folder = marian_folder(tmp_path / "m")
    add_tokenizers(folder)
    import_marian(folder, tmp_path / "w")
    config = load_config(tmp_path / "w" / "config.json")
    sizes = {"num_layers": 2, "d_model": D, "d_ff": F, "num_heads": HEADS, "dropout_rate": 0.25}
    biases = {"attention_bias": True, "logits_bias": True, "scale_embeddings": True}
    kinds = {"norm": "post", "activation": "swish", "tied_embeddings": "all"}
    decode = {"method": "beam", "beam_size": 6, "length_penalty": 0.5}
    data = {"corpus": "files", "vocab_size": V + 1, "shared_vocabulary": True}
    data |= {"source_language": "zho", "target_language": "eng"}
    for section, expected in (
        (config.model, OURS | sizes | biases | kinds),
        (config.decode, decode | {"length_penalty_form": "power"}),
        (config.data, data),
    ):
        assert {name: getattr(section, name) for name in expected} == expected
    assert config.name == "m"

    tokenizers = Tokenizers.load(tmp_path / "w")
    assert tokenizers.target.vocabulary[:6] == ["<pad>", "<unk>", "<s>", "</s>", "▁", "▁a"]
    pieces = tokenizers.target.pieces("Z a")
    (ids,) = tokenizers.target.encode(["Z a"])
    ours = {"▁": 4, "▁a": 5, "e": 6, "o": 7, "t": 8}
    assert ids == [ours.get(piece, UNK_ID) for piece in pieces]
    assert UNK_ID in ids and 5 in ids
    assert tokenizers.target.decode([[5, 7, EOS_ID]]) == ["ao"]


def test_a_file_of_float16_weights_stands_for_its_folder(tmp_path):
    tensors = random_tensors(np.float16)
    folder = marian_folder(tmp_path / "m", tensors)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    import_marian(folder / "other.safetensors", tmp_path / "w")
    w1 = imported(tmp_path / "w")[2]["encoder_0"]["feed_forward"]["w1"]
    assert w1.dtype == np.float32
    assert np.array_equal(w1.T, tensors["model.encoder.layers.0.fc1.weight"].astype(np.float32))


def test_an_imported_model_can_be_looked_into(tmp_path):
    folder = marian_folder(tmp_path / "m")
    add_tokenizers(folder)
    import_marian(folder, tmp_path / "w")
    model = tj.load(tmp_path / "w")
    record = model.inside("我有。", "a hot", beams=False)
    logits = model.apply(record.source.ids[None], record.target.ids[None])[0]
    np.testing.assert_allclose(record.prediction.logits, logits, atol=1e-4)
    attention = record.decoder[1].cross_attention
    assert {"query_bias", "output_bias"} < attention.parameters.keys()
    np.testing.assert_allclose(attention.weights.sum(-1), 1, atol=1e-6)
    assert record.source.pieces[-1] == "<eos>" and record.target.pieces[0] == "<bos>"
    assert (record.model.sinusoid_layout, record.model.activation) == ("halves", "swish")
    without = model.inside("我有。", "a hot", beams=False, off=["encoder_0/self_attention/head_1"])
    assert np.abs(without.encoded - record.encoded).max() > 1e-3


def test_a_start_of_its_own_is_our_bos(tmp_path):
    tensors = random_tensors()
    config, _, params = import_tensors(tmp_path, tensors, decoder_start_token_id=7)
    assert config.data.vocab_size == V
    assert np.array_equal(params["embedding"][BOS_ID], tensors["model.shared.weight"][7])
    assert params["logits_bias"][BOS_ID] == tensors["final_logits_bias"][0, 7]


def test_without_sentencepiece_there_is_no_tokenizer(tmp_path, capsys):
    import_tensors(tmp_path)
    logged = capsys.readouterr().err
    assert "source.spm, target.spm, vocab.json" in logged and "cannot translate text" in logged
    assert "does not name its languages" in logged
    assert "tokenizer.model" in refused(Tokenizers.load, tmp_path / "w")


def test_a_copied_bos_changes_no_other_probability(tmp_path):
    _, model, params = import_tensors(tmp_path)
    source, target = np.array([[5, 7, 11, EOS_ID]]), np.array([[BOS_ID, 5, 4]])
    logits = model.apply({"params": params}, source, target)
    probabilities = jax.nn.softmax(logits)
    assert probabilities[..., BOS_ID].max() < 1e-30
    others = np.delete(np.arange(model.vocab_size), BOS_ID)
    np.testing.assert_array_equal(probabilities[..., others], jax.nn.softmax(logits[..., others]))


def test_bad_words_become_sequences_of_our_ids():
    """Without those that no search generates, and eos, which Hugging Face does not forbid."""
    order = import_order(11, SpecialIds(pad=10, unk=1, eos=0, start=10))
    ids = {"eos_token_id": 0, "pad_token_id": 10, "decoder_start_token_id": 10}
    bad = [[10], [0], [1], [5], [10, 5], [6, 7], [6, 7], [5, 0]]
    decode = to_decode(ids | {"bad_words_ids": bad}, order)
    assert decode.forbidden_ids == f"7, {BOS_ID} 7, 8 9, 7 {EOS_ID}"
    for wrong in ([[11]], [5], [[]], "x", [[1.5]]):
        assert "bad_words_ids" in refused(to_decode, ids | {"bad_words_ids": wrong}, order)
    assert to_decode(ids | {"forced_bos_token_id": 5}, order).first_id == 7


# Round trips

SOURCE, TARGET = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
TIES = {
    "all": ({}, ("model.shared.weight",), {}),
    "target_softmax": (
        {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 11, "vocab_size": V},
        (SOURCE, TARGET),
        {TARGET: 11, "final_logits_bias": 11},
    ),
    "none": (
        {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
        (SOURCE, TARGET, "lm_head.weight"),
        {},
    ),
}


@pytest.mark.parametrize("ties", TIES)
def test_import_and_export_change_no_weight(tmp_path, ties):
    options, tables, sizes = TIES[ties]
    tensors = random_tensors(tables=tables, sizes=sizes)
    last = sizes.get(TARGET, V) - 1
    ids = {"pad_token_id": last, "decoder_start_token_id": last}
    import_marian(marian_folder(tmp_path / "m", tensors, **ids, **options), tmp_path / "w")
    config = load_config(tmp_path / "w" / "config.json")
    assert config.model.tied_embeddings == ties
    assert config.data.shared_vocabulary == (not sizes)
    params = params_in(tmp_path / "w", Transformer(config.model, last + 2, V + 1))
    export_marian(config, params, None, tmp_path / "out")
    assert_same_bits(tensors, safetensors.load_file(tmp_path / "out" / "model.safetensors"))
    exported = read_json(tmp_path / "out" / "config.json")
    assert {k: exported[k] for k in OPTIONS | ids | options} == OPTIONS | options | ids


def test_every_file_comes_back(tmp_path):
    folder = marian_folder(tmp_path / "m")
    add_tokenizers(folder)
    import_marian(folder, tmp_path / "w")
    config, _, params = imported(tmp_path / "w")
    export_marian(config, params, Tokenizers.load(tmp_path / "w"), tmp_path / "out")
    for name in ("source.spm", "target.spm"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes()
    assert read_json(tmp_path / "out" / "vocab.json") == read_json(folder / "vocab.json")
    assert not (tmp_path / "out" / "target_vocab.json").exists()
    for name in ("tokenizer_config.json", "generation_config.json"):
        before, after = read_json(folder / name), read_json(tmp_path / "out" / name)
        assert {k: after[k] for k in before} == before
    assert after["bad_words_ids"] == [[1], [V - 1]]


def our_model(tied="all", biases=True, vocab_sizes=(V, V)):
    """A config and parameters of ours that Marian can have."""
    sizes = {"num_layers": 1, "d_model": D, "d_ff": F, "num_heads": HEADS}
    ties = {"attention_bias": biases, "logits_bias": biases, "tied_embeddings": tied}
    config = Config(model=ModelConfig(**OURS | sizes | ties))
    config.data.vocab_size = vocab_sizes[1]
    config.data.shared_vocabulary = tied in ("all", "source_target")
    config.data.source_language, config.data.target_language = "en", "de"
    return config, random_params(Transformer(config.model, vocab_sizes[1], vocab_sizes[0]))


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("tied", ["all", "source_target", "target_softmax", "none"])
def test_export_and_import_change_no_weight_of_ours(tmp_path, tied, biases):
    config, params = our_model(tied, biases)
    export_marian(config, params, None, tmp_path / "m")
    import_marian(tmp_path / "m", tmp_path / "w")
    again, _, back = imported(tmp_path / "w")
    assert again.model.tied_embeddings == tied
    assert again.data.vocab_size == V
    ours, back = (traverse_util.flatten_dict(jax.device_get(x)) for x in (params, back))
    gained = {path: back.pop(path) for path in set(back) - set(ours)}
    assert_same_bits(ours, back)
    # A bias that ours lacks is zero: of the logits, and four of each of three attentions.
    assert len(gained) == (0 if biases else 1 + 3 * 4)
    assert not any(bias.any() for bias in gained.values())


@pytest.mark.parametrize("sizes", [(11, V), (V, 11)])
def test_without_names_pad_and_bos_have_ids_that_both_sides_have(tmp_path, sizes):
    config, params = our_model("target_softmax", vocab_sizes=sizes)
    export_marian(config, params, None, tmp_path / "m")
    exported = read_json(tmp_path / "m" / "config.json")
    assert (exported["decoder_start_token_id"], exported["pad_token_id"]) == (9, 10)
    import_marian(tmp_path / "m", tmp_path / "w")
    model = Transformer(config.model, *sizes[::-1])
    assert_same_bits(params, params_in(tmp_path / "w", model))


def test_a_bos_of_our_own_becomes_the_start_before_pad(tmp_path, capsys):
    config, params = our_model()
    export_marian(config, params, None, tmp_path / "m")
    exported = read_json(tmp_path / "m" / "config.json")
    ids = {"vocab_size": V, "decoder_start_token_id": V - 2, "pad_token_id": V - 1}
    assert {name: exported[name] for name in ids} == ids
    tensors = safetensors.load_file(tmp_path / "m" / "model.safetensors")
    assert np.array_equal(tensors["model.shared.weight"][V - 2], params["embedding"][BOS_ID])
    generation = read_json(tmp_path / "m" / "generation_config.json")
    assert generation["bad_words_ids"] == [[1], [V - 2], [V - 1]]
    # A penalty that transformers lacks is logged.
    assert "decode.length_penalty_form='gnmt'" in capsys.readouterr().err
    assert "length_penalty" not in generation


@pytest.mark.parametrize(
    ("name", "place", "change"), [("embedding", (BOS_ID, 3), 1e-6), ("logits_bias", BOS_ID, 1e-4)]
)
def test_a_copied_bos_that_was_trained_since_is_kept(tmp_path, name, place, change):
    config, _, params = import_tensors(tmp_path)
    params = jax.tree.map(np.array, params)
    params[name][place] += change
    export_marian(config, params, None, tmp_path / "out")
    exported = read_json(tmp_path / "out" / "config.json")
    assert (exported["vocab_size"], exported["decoder_start_token_id"]) == (V + 1, V - 1)
    import_marian(tmp_path / "out", tmp_path / "again")
    assert_same_bits(params, jax.device_get(imported(tmp_path / "again")[2]))


def test_separate_vocabularies_of_two_sizes_share_the_id_of_pad(tmp_path):
    pairs = grammar.pairs("train", size=50)
    source = train_tokenizer([pair[0] for pair in pairs], vocab_size=500)
    target = train_tokenizer([pair[1] for pair in pairs], vocab_size=450)
    config, params = our_model("target_softmax", vocab_sizes=(500, 450))
    export_marian(config, params, Tokenizers(source, target), tmp_path / "m")
    sides = [read_json(tmp_path / "m" / name) for name in ("vocab.json", "target_vocab.json")]
    assert [len(side) for side in sides] == [500, 450]
    assert [side["<pad>"] for side in sides] == [449, 449]
    assert read_json(tmp_path / "m" / "config.json")["pad_token_id"] == 449
    import_marian(tmp_path / "m", tmp_path / "w")
    again, _, back = imported(tmp_path / "w")
    assert not again.data.shared_vocabulary
    assert_same_bits(params, jax.device_get(back))
    for before, after in zip((source, target), Tokenizers.load(tmp_path / "w"), strict=True):
        assert after.vocabulary == before.vocabulary
        assert after.encode(["I have a cat. 我有猫"]) == before.encode(["I have a cat. 我有猫"])


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_type": "bart"}, ["model_type='bart'", "marian"]),
        ({"normalize_before": True}, ["normalize_before=True", "False"]),
        ({"normalize_embedding": True}, ["normalize_embedding=True"]),
        ({"add_final_layer_norm": True}, ["add_final_layer_norm=True"]),
        ({"static_position_embeddings": False}, ["static_position_embeddings=False", "True"]),
        ({"is_encoder_decoder": False}, ["is_encoder_decoder=False"]),
        ({"decoder_layers": 0}, ["encoder_layers=2 and decoder_layers=0", "at least 1"]),
        ({"decoder_layers": 3}, ["no tensor model.decoder.layers.2"]),
        ({"decoder_attention_heads": 2}, ["attention_heads=7", "attention_heads=2"]),
        ({"encoder_ffn_dim": 7}, ["encoder_ffn_dim=7", "decoder_ffn_dim=19"]),
        ({"activation_function": "gelu_new"}, ["'gelu_new'", "relu, gelu, swish"]),
        ({"d_model": "no"}, ["lacks d_model"]),
        ({"d_model": "14"}, ["d_model='14'", "int"]),
        ({"eos_token_id": [0, 4]}, ["eos_token_id=[0, 4]"]),
        ({"pad_token_id": V}, ["pad is 13", "vocabulary of 13"]),
        ({"eos_token_id": 1}, ["unk 1, eos 1"]),
        ({"d_model": 10}, ["d_model=10", "num_heads=7"]),
        ({"vocab_size": V + 4}, ["model.shared.weight", f"({V}, {D})", f"({V + 4}, {D})"]),
    ],
)
def test_options_that_cannot_be_imported(tmp_path, options, words):
    refuses(marian_folder(tmp_path / "m", **options), tmp_path / "w", *words)


BROKEN = "model.decoder.layers.1.encoder_attn.v_proj.weight"
UNKNOWN = "model.encoder.layer_norm.weight"
POSITIONS = "model.encoder.embed_positions.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.pop(BROKEN), ["no tensor", BROKEN]),
        (lambda x: x.update({BROKEN: x[BROKEN][:, 1:]}), [BROKEN, "(14, 13)", "(14, 14)"]),
        (lambda x: x[BROKEN].__setitem__((2, 3), np.nan), [BROKEN, "not finite"]),
        (lambda x: x[BROKEN].__setitem__((0, 0), np.inf), [BROKEN, "not finite"]),
        (lambda x: x.pop("final_logits_bias"), ["no tensor final_logits_bias"]),
        (lambda x: x.pop("model.shared.weight"), ["no tensor model.shared.weight"]),
        (lambda x: x.update({UNKNOWN: np.ones(D, "f")}), ["architecture lacks", UNKNOWN]),
        (lambda x: x.update({POSITIONS: np.ones((5, D), "f")}), [POSITIONS, "sinusoids"]),
    ],
)
def test_tensors_that_cannot_be_imported(tmp_path, change, words):
    tensors = random_tensors()
    change(tensors)
    refuses(marian_folder(tmp_path / "m", tensors), tmp_path / "w", *words)


def test_sinusoids_that_a_file_has_are_recognised(tmp_path):
    """Marian's own formula, in numpy: sines, then cosines, of position / 10000^(2(j // 2) / D)."""
    j, position = np.arange(D), np.arange(17)[:, None]
    angles = position / np.power(10000, 2 * (j // 2) / D)
    table = np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], axis=1)
    import_tensors(tmp_path, random_tensors() | {POSITIONS: table.astype("f")})


def test_files_that_cannot_be_imported(tmp_path):
    refuses(tmp_path / "nowhere", tmp_path / "w", "nowhere", "config.json")
    folder = marian_folder(tmp_path / "m")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    refuses(folder, tmp_path / "w", "model.safetensors", "cannot be read")
    weights.unlink()
    refuses(folder, tmp_path / "w", "has no model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"")
    refuses(folder, tmp_path / "w", "may run code", "safe_serialization=True")
    weights.write_bytes(content)
    add_tokenizers(folder)
    for name, damaged, words in [
        ("target.spm", "nothing", ["target.spm", "damaged"]),
        ("vocab.json", '{"</s>": 0, "a": 7}', ["vocab.json", "2 pieces", "0 to 12"]),
        ("vocab.json", '["</s>"]', ["vocab.json is damaged"]),
        ("config.json", "{", ["config.json is damaged"]),
    ]:
        (folder / name).write_text(damaged)
        refuses(folder, tmp_path / "w", *words)


def test_what_is_overwritten_or_not_installed_is_refused(tmp_path):
    config, _, params = import_tensors(tmp_path)
    folder, workdir = tmp_path / "m", tmp_path / "w"
    before = (workdir / "config.json").read_bytes()
    assert re.search(r"w is not empty.*--workdir", refused(import_marian, folder, workdir))
    message = refused(export_marian, config, params, None, folder)
    assert re.search(r"m is not empty.*--output", message)
    assert (workdir / "config.json").read_bytes() == before
    message = refused(require_package, "no_such_package.numpy")
    assert "pip install no_such_package" in message


def test_every_option_that_marian_lacks_is_named_at_once(tmp_path):
    config, params = our_model()
    options = {"norm": "pre", "layer_norm_epsilon": 1e-6, "positions": "learned", "d_key": 5}
    config.model = dataclasses.replace(config.model, sinusoid_layout="interleaved", **options)
    message = refused(export_marian, config, params, None, tmp_path / "m")
    for words in (
        "model.norm='pre' (Marian has 'post')",
        "model.layer_norm_epsilon=1e-06 (Marian has 1e-05)",
        "model.positions='learned' (Marian has 'sinusoidal')",
        "model.sinusoid_layout='interleaved' (Marian has 'halves')",
        "model.d_key=5 (Marian has 2)",
    ):
        assert words in message
    assert "d_value" not in message
    assert not (tmp_path / "m").exists()
