"""Export to CTranslate2 and safetensors: what a folder holds, and what is refused."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
import sentencepiece

from transformer_jax.config.files import load_config
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, Config, ModelConfig
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers, train_tokenizers
from transformer_jax.errors import UserError
from transformer_jax.inference.batching import SOURCE_LENGTHS
from transformer_jax.interop import ctranslate2 as ct2
from transformer_jax.interop.ctranslate2 import QUANTIZATIONS, export_ctranslate2
from transformer_jax.interop.safetensors import export_safetensors, load_safetensors
from transformer_jax.model.transformer import Transformer

MODEL = ModelConfig(num_layers=1, d_model=14, d_ff=11, num_heads=2, logits_bias=True)
CONFIG = Config(name="猫", model=MODEL)
TEXT = "他们的钢笔非常旧"


@pytest.fixture(scope="module")
def shared():
    return train_tokenizers(grammar.pairs("train", size=100), vocab_size=601, shared=True)


@pytest.fixture(scope="module")
def separate():
    return train_tokenizers(grammar.pairs("train", size=100), vocab_size=557, shared=False)


def random_params(config, tokenizers):
    """Parameters of numpy arrays, none of them zero."""
    model = Transformer(config.model, tokenizers.target.vocab_size, tokenizers.source.vocab_size)
    tokens = np.ones((1, 1), np.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), shapes)


def assert_same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for leaf, other in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == other.dtype
        np.testing.assert_array_equal(leaf, other)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------ safetensors
@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors", reason="what is tested writes its format")


@pytest.mark.parametrize("form", ["shared", "separate", "imported"])
def test_the_folder_gives_back_everything(safetensors, tmp_path, shared, separate, form):
    words = ["<pad>", "<unk>", "<s>", "</s>", "▁a"]
    imported = Tokenizers(*(Tokenizer(side.model, words) for side in separate))
    tokenizers = {"shared": shared, "separate": separate, "imported": imported}[form]
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(MODEL, tied_embeddings="none", norm="pre")
    )
    params = random_params(config, tokenizers)
    export_safetensors(config, params, tokenizers, tmp_path / "new" / "model")
    folder = tmp_path / "new" / "model"
    assert_same(load_safetensors(folder / "model.safetensors"), params)
    assert load_config(folder / "config.json") == config
    loaded = Tokenizers.load(folder)
    assert [t.vocabulary for t in loaded] == [t.vocabulary for t in tokenizers]
    assert [t.model for t in loaded] == [t.model for t in tokenizers]


def test_other_programs_see_paths_and_where_it_is_from(safetensors, tmp_path, shared):
    params = random_params(CONFIG, shared)
    export_safetensors(CONFIG, jax.device_put(params), shared, tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "flax", "experiment": "猫"}
        kernel = file.get_tensor("decoder_0/cross_attention/query_kernel")
    np.testing.assert_array_equal(kernel, params["decoder_0"]["cross_attention"]["query_kernel"])


def test_a_view_is_saved_as_it_reads(safetensors, tmp_path, shared):
    params = {"w": np.arange(15, dtype=np.float32).reshape(5, 3).T}
    export_safetensors(CONFIG, params, shared, tmp_path)
    assert_same(load_safetensors(tmp_path / "model.safetensors"), params)


def test_a_file_that_is_not_there_or_damaged(safetensors, tmp_path, shared):
    export_safetensors(CONFIG, random_params(CONFIG, shared), shared, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: "):
        load_safetensors(path)
    with pytest.raises(UserError, match=r"cannot read .*gone: No such file"):
        load_safetensors(tmp_path / "gone")


# ------------------------------------------------------------------------------------ CTranslate2
@pytest.fixture
def translator():
    """Opens a folder with CTranslate2."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="what is tested writes its format")
    return lambda folder: ctranslate2.Translator(str(folder), device="cpu")


def test_the_folder_suffices_to_translate(translator, tmp_path, shared):
    params = random_params(CONFIG, shared)
    export_ctranslate2(CONFIG, params, shared, tmp_path / "new" / "model")
    folder = tmp_path / "new" / "model"
    source, target = (
        sentencepiece.SentencePieceProcessor(str(folder / f"{side}.spm"))
        for side in ("source", "target")
    )
    pieces = source.encode(TEXT, out_type=str)
    assert pieces == shared.source.pieces(TEXT)
    (found,) = translator(folder).translate_batch([pieces], max_decoding_length=7)
    assert len(found.hypotheses[0]) == 7
    assert target.decode(found.hypotheses[0])


def test_vocabularies(translator, tmp_path, shared, separate):
    export_ctranslate2(CONFIG, random_params(CONFIG, shared), shared, tmp_path / "shared")
    config = Config(model=dataclasses.replace(MODEL, tied_embeddings="target_softmax"))
    params = random_params(config, separate)
    export_ctranslate2(config, params, separate, tmp_path / "separate")
    found, apart = contents(tmp_path / "shared"), contents(tmp_path / "separate")
    assert json.loads(found["shared_vocabulary.json"]) == shared.source.vocabulary
    assert json.loads(apart["source_vocabulary.json"]) == separate.source.vocabulary
    assert json.loads(apart["target_vocabulary.json"]) == separate.target.vocabulary
    assert apart["source.spm"] == separate.source.model
    assert apart["target.spm"] == separate.target.model


def test_suppressing_pad_and_bos_is_left_to_the_caller(translator, tmp_path, shared):
    params = random_params(CONFIG, shared)
    params["logits_bias"][[PAD_ID, BOS_ID]] = 30.0, 20.0
    params["logits_bias"][EOS_ID] = -30.0
    export_ctranslate2(CONFIG, params, shared, tmp_path)
    model, pieces = translator(tmp_path), [shared.source.pieces(TEXT)]
    options = {"beam_size": 3, "max_decoding_length": 5}
    (found,) = model.translate_batch(pieces, **options)
    assert found.hypotheses == [["<pad>"] * 5]
    suppress = [["<pad>"], ["<s>"]]
    (found,) = model.translate_batch(pieces, **options, suppress_sequences=suppress)
    assert not {"<pad>", "<s>"} & set(found.hypotheses[0])


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_quantization(translator, tmp_path, shared, quantization):
    if quantization.endswith("bfloat16"):
        pytest.importorskip("torch", reason="numpy has no bfloat16")
    params = random_params(CONFIG, shared)
    scores, sizes = [], []
    for name in ("", quantization):
        folder = tmp_path / f"model{name}"
        export_ctranslate2(CONFIG, params, shared, folder, quantization=name)
        pieces = [shared.source.pieces(TEXT)], [shared.target.pieces("Their pen is very old")]
        (found,) = translator(folder).score_batch(*pieces)
        scores.append(np.array(found.log_probs))
        sizes.append((folder / "model.bin").stat().st_size)
    difference = np.abs(scores[0] - scores[1])
    assert 0 < difference.max() < 0.1 * scores[0].std()
    assert sizes[1] < sizes[0]


def test_the_parameters_stay_as_they_were(translator, tmp_path, shared):
    params = random_params(CONFIG, shared)
    before = jax.tree.map(np.copy, params)
    export_ctranslate2(CONFIG, params, shared, tmp_path, quantization="int8")
    assert_same(params, before)


def test_what_the_format_cannot_hold(translator, tmp_path, shared):
    def refusal(quantization="", params=None, **model):
        config = Config(model=dataclasses.replace(MODEL, **model))
        params = params or random_params(config, shared)
        with pytest.raises(UserError) as e:
            export_ctranslate2(config, params, shared, tmp_path / "out", quantization=quantization)
        assert not (tmp_path / "out").exists()
        return str(e.value)

    assert "model.d_key=5 and model.d_value=3 differ" in refusal(d_key=5, d_value=3)
    assert "model.d_key=7 and model.d_value=3 differ" in refusal(d_value=3)
    message = refusal(quantization="int4")
    assert message.startswith("--quantization=int4 is none of: int8, ")
    for bad in (np.nan, np.inf):
        params = random_params(CONFIG, shared)
        params["encoder_0"]["feed_forward"]["w1"][3, 2] = bad
        assert "encoder_0/feed_forward/w1 has values that are not finite" in refusal(params=params)


def test_bfloat16_says_what_it_needs(translator, tmp_path, shared, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    params = random_params(CONFIG, shared)
    with pytest.raises(UserError, match="pip install torch"):
        export_ctranslate2(CONFIG, params, shared, tmp_path / "x", quantization="bfloat16")


def test_a_disk_that_is_full(translator, tmp_path, shared, monkeypatch):
    def save(*_):
        raise OSError(28, "No space left on device")

    specs = sys.modules["ctranslate2.specs"]
    monkeypatch.setattr(specs.TransformerSpec, "save", save)
    params = random_params(CONFIG, shared)
    with pytest.raises(UserError, match=r"cannot write .*out: No space left"):
        export_ctranslate2(CONFIG, params, shared, tmp_path / "out")


# ------------------------------------------------------------------------------------------- both
@pytest.mark.parametrize("export", [export_safetensors, export_ctranslate2])
def test_nothing_is_overwritten(safetensors, translator, tmp_path, shared, export):
    params = random_params(CONFIG, shared)
    used, file = tmp_path / "used", tmp_path / "file"
    used.mkdir()
    for path in (file, used / "notes"):
        path.write_text("mine")
    with pytest.raises(UserError, match="used is not empty: choose another --output"):
        export(CONFIG, params, shared, used)
    for path in (file, file / "below"):
        with pytest.raises(UserError, match=r"file is not empty|cannot write to .*file/below"):
            export(CONFIG, params, shared, path)
    assert contents(used) == {"notes": b"mine"}
    assert file.read_text() == "mine"


def test_positions_for_the_longest_sentences():
    longest = SOURCE_LENGTHS[-1] + Config().decode.extra_length
    assert longest <= ct2.SINUSOIDAL_POSITIONS
