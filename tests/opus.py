"""A Marian model like Helsinki-NLP's: two SentencePiece models, one vocabulary, pad last.

The weights are random. What a test wants to be otherwise it gives as options.
"""

import json

import numpy as np
import pytest

from transformer_jax.data.small_world import grammar
from transformer_jax.data.tokenizer import train_tokenizer

D, F, HEADS = 14, 19, 7
CODES = (">>deu<<", ">>fra<<")
SIDES = ("encoder", "decoder")


def attention(prefix):
    shapes = {}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= {f"{prefix}.{part}.weight": (D, D), f"{prefix}.{part}.bias": (D,)}
    return shapes | norm(f"{prefix}_layer_norm")


def norm(prefix):
    return {f"{prefix}.weight": (D,), f"{prefix}.bias": (D,)}


def layer(prefix, attentions):
    shapes = {f"{prefix}.fc1.weight": (F, D), f"{prefix}.fc1.bias": (F,)}
    shapes |= {f"{prefix}.fc2.weight": (D, F), f"{prefix}.fc2.bias": (D,)}
    for name in attentions:
        shapes |= attention(f"{prefix}.{name}")
    return shapes | norm(f"{prefix}.final_layer_norm")


def vocabulary(tokenizers, codes):
    """{piece: id} of both sides' pieces, as vocab.json has them."""
    pieces = [p for tokenizer in tokenizers for p in tokenizer.vocabulary[4:]]
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(["</s>", "<unk>", *pieces, *codes]))}
    return ids | {"<pad>": len(ids)}


def write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def opus(
    folder, *, depths=(1, 1), codes=CODES, separate=False, generation=None, bias=None, **options
):
    """Writes a model, English to Chinese, and returns the target's vocabulary.

    `separate` gives each side a vocabulary and a table, `bias` is added to the logits of pieces,
    `generation` is for generation_config.json; an option that is None is left out.
    """
    safetensors = pytest.importorskip("safetensors.numpy", reason="Marian's files need it")
    folder.mkdir()
    sides = zip(*grammar.pairs("train", size=200), strict=True)
    tokenizers = [train_tokenizer(side, vocab_size=601) for side in sides][::-1]
    for name, tokenizer in zip(("source", "target"), tokenizers, strict=True):
        tokenizer.save(folder / f"{name}.spm")
    if separate:
        source, ids = vocabulary(tokenizers[:1], codes), vocabulary(tokenizers[1:], [])
        write_json(folder / "target_vocab.json", ids)
        tables = {
            f"model.{s}.embed_tokens.weight": (len(v), D)
            for s, v in zip(SIDES, (source, ids), strict=True)
        }
        options |= {"share_encoder_decoder_embeddings": False}
    else:
        source = ids = vocabulary(tokenizers, codes)
        tables = {"model.shared.weight": (len(ids), D)}
    write_json(folder / "vocab.json", source)
    shapes = tables | {"final_logits_bias": (1, len(ids))}
    for side, names, depth in zip(
        SIDES, (["self_attn"], ["self_attn", "encoder_attn"]), depths, strict=True
    ):
        for number in range(depth):
            shapes |= layer(f"model.{side}.layers.{number}", names)
    rng = np.random.default_rng(3)
    tensors = {n: rng.normal(0, 0.5, shape).astype(np.float32) for n, shape in shapes.items()}
    for piece, value in (bias or {}).items():
        tensors["final_logits_bias"][0, ids[piece]] += value
    safetensors.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    pad = ids["<pad>"]
    special = {"pad_token_id": pad, "decoder_start_token_id": pad, "forced_eos_token_id": 0}
    special |= {"bos_token_id": 0, "eos_token_id": 0, "bad_words_ids": [[pad]]}
    both = {
        f"{side}_{name}": value
        for side, depth in zip(SIDES, depths, strict=True)
        for name, value in {"layers": depth, "attention_heads": HEADS, "ffn_dim": F}.items()
    }
    config = {"model_type": "marian", "vocab_size": len(source), "decoder_vocab_size": len(ids)}
    config |= {"d_model": D, "activation_function": "swish", "scale_embedding": True}
    config |= both | special | options
    write_json(folder / "config.json", {k: v for k, v in config.items() if v is not None})
    if generation is not None:
        generated = special | {"num_beams": 4, "max_length": 512, "renormalize_logits": True}
        write_json(folder / "generation_config.json", generated | generation)
    write_json(folder / "tokenizer_config.json", {"source_lang": "en", "target_lang": "zh"})
    return ids
