"""Export to CTranslate2 and safetensors: what a folder holds, and what is refused."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
import sentencepiece
from flax import traverse_util
from launching import refused
from toy import assert_same_bits, random_params

from transformer_jax.config.files import load_config
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, Config, ModelConfig
from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers, train_tokenizers
from transformer_jax.inference.batching import SOURCE_LENGTHS
from transformer_jax.interop import ctranslate2 as ct2
from transformer_jax.interop.ctranslate2 import QUANTIZATIONS, export_ctranslate2
from transformer_jax.interop.safetensors import export_safetensors
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


def params_of(config, tokenizers):
    sizes = (side.vocab_size for side in (tokenizers.target, tokenizers.source))
    return random_params(Transformer(config.model, *sizes), stddev=0.5)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ------------------------------------------------------------------------------------ safetensors
@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors", reason="what is tested writes its format")


def load(path):
    from safetensors.numpy import load_file

    return traverse_util.unflatten_dict(load_file(path), sep="/")


@pytest.mark.parametrize("form", ["shared", "separate", "imported"])
def test_the_folder_gives_back_everything(safetensors, tmp_path, shared, separate, form):
    words = ["<pad>", "<unk>", "<s>", "</s>", "▁a"]
    imported = Tokenizers(*(Tokenizer(side.model, words) for side in separate))
    tokenizers = {"shared": shared, "separate": separate, "imported": imported}[form]
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(MODEL, tied_embeddings="none", norm="pre")
    )
    params = params_of(config, tokenizers)
    export_safetensors(config, params, tokenizers, tmp_path / "new" / "model")
    folder = tmp_path / "new" / "model"
    assert_same_bits(load(folder / "model.safetensors"), params)
    assert load_config(folder / "config.json") == config
    loaded = Tokenizers.load(folder)
    assert [t.vocabulary for t in loaded] == [t.vocabulary for t in tokenizers]
    assert [t.model for t in loaded] == [t.model for t in tokenizers]


def test_other_programs_see_paths_and_where_it_is_from(safetensors, tmp_path, shared):
    params = params_of(CONFIG, shared)
    params["view"] = np.arange(15, dtype=np.float32).reshape(5, 3).T
    export_safetensors(CONFIG, jax.tree.map(lambda x: x, params), shared, tmp_path)
    path = tmp_path / "model.safetensors"
    assert_same_bits(load(path), params)
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "flax", "experiment": "猫"}
        kernel = file.get_tensor("decoder_0/cross_attention/query_kernel")
    np.testing.assert_array_equal(kernel, params["decoder_0"]["cross_attention"]["query_kernel"])


# ------------------------------------------------------------------------------------ CTranslate2
@pytest.fixture
def translator():
    """Opens a folder with CTranslate2."""
    ctranslate2 = pytest.importorskip("ctranslate2", reason="what is tested writes its format")
    return lambda folder: ctranslate2.Translator(str(folder), device="cpu")


def test_the_folder_suffices_to_translate_the_longest_sentences(translator, tmp_path, shared):
    folder = tmp_path / "new" / "model"
    export_ctranslate2(CONFIG, params_of(CONFIG, shared), shared, folder)
    source, target = (
        sentencepiece.SentencePieceProcessor(str(folder / f"{side}.spm"))
        for side in ("source", "target")
    )
    pieces = source.encode(TEXT, out_type=str)
    assert pieces == shared.source.pieces(TEXT)
    (found,) = translator(folder).translate_batch([pieces], max_decoding_length=7)
    assert len(found.hypotheses[0]) == 7
    assert target.decode(found.hypotheses[0])
    longest = SOURCE_LENGTHS[-1] + Config().decode.extra_length
    assert longest <= ct2.SINUSOIDAL_POSITIONS


def test_vocabularies(translator, tmp_path, shared, separate):
    export_ctranslate2(CONFIG, params_of(CONFIG, shared), shared, tmp_path / "shared")
    found = contents(tmp_path / "shared")
    assert json.loads(found["shared_vocabulary.json"]) == shared.source.vocabulary
    config = Config(model=dataclasses.replace(MODEL, tied_embeddings="target_softmax"))
    export_ctranslate2(config, params_of(config, separate), separate, tmp_path / "separate")
    found = contents(tmp_path / "separate")
    for side in ("source", "target"):
        tokenizer = getattr(separate, side)
        assert json.loads(found[f"{side}_vocabulary.json"]) == tokenizer.vocabulary
        assert found[f"{side}.spm"] == tokenizer.model


def test_suppressing_pad_and_bos_is_left_to_the_caller(translator, tmp_path, shared):
    params = params_of(CONFIG, shared)
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
    params = params_of(CONFIG, shared)
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
    assert_same_bits(params, params_of(CONFIG, shared))  # they stay as they were


def test_what_the_format_cannot_hold(translator, tmp_path, shared, monkeypatch):
    def refusal(quantization="", bad=0.0, **model):
        config = Config(model=dataclasses.replace(MODEL, **model))
        params = params_of(config, shared)
        params["encoder_0"]["feed_forward"]["w1"][3, 2] = bad
        options = {"quantization": quantization}
        message = refused(export_ctranslate2, config, params, shared, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
        return message

    assert "model.d_key=5 and model.d_value=3 differ" in refusal(d_key=5, d_value=3)
    assert "model.d_key=7 and model.d_value=3 differ" in refusal(d_value=3)
    assert refusal("int4").startswith("--quantization=int4 is none of: int8, ")
    for bad in (np.nan, np.inf):
        message = refusal(bad=bad)
        assert "encoder_0/feed_forward/w1 has values that are not finite" in message
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in refusal("bfloat16")


def test_a_disk_that_is_full(translator, tmp_path, shared, monkeypatch):
    def save(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["ctranslate2.specs"].TransformerSpec, "save", save)
    arguments = CONFIG, params_of(CONFIG, shared), shared, tmp_path / "out"
    message = refused(export_ctranslate2, *arguments)
    assert message.startswith(f"cannot write {tmp_path}/out: No space left")


# ------------------------------------------------------------------------------------------- both
@pytest.mark.parametrize("export", [export_safetensors, export_ctranslate2])
def test_nothing_is_overwritten(safetensors, translator, tmp_path, shared, export):
    params = params_of(CONFIG, shared)
    used, file = tmp_path / "used", tmp_path / "file"
    used.mkdir()
    for path in (file, used / "notes"):
        path.write_text("mine")
    for path, words in (
        (used, "used is not empty: choose another --output"),
        (file, "file is not empty"),
        (file / "below", "file/below"),
    ):
        assert words in refused(export, CONFIG, params, shared, path)
    assert contents(used) == {"notes": b"mine"}
    assert file.read_text() == "mine"
