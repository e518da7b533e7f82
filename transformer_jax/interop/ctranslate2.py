"""A trained model in the format of CTranslate2, which translates fast on CPU and GPU without JAX.

The exported folder is all it needs. Pieces are given without <s> and </s>, which the model adds:

  translator = ctranslate2.Translator("exported")
  source = sentencepiece.SentencePieceProcessor("exported/source.spm")
  target = sentencepiece.SentencePieceProcessor("exported/target.spm")
  results = translator.translate_batch(
      [source.encode("我有一只猫", out_type=str)],
      beam_size=4,
      length_penalty=0.6,
      suppress_sequences=[["<pad>"], ["<s>"]],
      disable_unk=True,
  )
  target.decode(results[0].hypotheses[0])

CTranslate2's beam search differs from ours:
- It may generate <pad>, <s> and <unk>, which ours never does, unless `suppress_sequences` and
  `disable_unk` forbid it. It then divides their probability among the other pieces, and ours does
  not. The format cannot store this, and a bias that excludes them would change every
  log-probability. Nor does it store `decode.no_repeat_ngram_size` and its like; export names them.
- Its length penalty is our `length_penalty_form="power"`; it has no "gnmt".
- With a length penalty it stops when `beam_size * patience` translations have ended, and ours when
  no other can be better. It may miss a better translation; with `patience=5` it hardly ever does.
- It never returns an empty translation without `min_decoding_length=0`; ours does if none is more
  probable.
- It allows `max_decoding_length` pieces and </s> for every source, and ours `extra_length` more
  than the source has. It truncates a source at `max_input_length`, and ours skips such a sentence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transformer_jax.config.options import BOS_ID, EOS_ID, UNK_ID, Config, ModelConfig
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.errors import UserError
from transformer_jax.functional.positions import sinusoidal_positions
from transformer_jax.interop.requirements import (
    log_lost,
    require_empty,
    require_finite,
    require_package,
)
from transformer_jax.storage import make_folder

# The dtypes of stored weights, besides float32. After the underscore comes the dtype of what is not
# quantised (biases, positions); without one it is float32. A device that lacks a dtype computes in
# another one, with a warning.
QUANTIZATIONS = ("int8", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16")
# How many sinusoids the file holds: our longest source has 1024 pieces, and a translation
# may be longer. CTranslate2's own sinusoids have other frequencies.
SINUSOIDAL_POSITIONS = 2048
# Options of decoding that a caller of CTranslate2 has to know, besides the beam.
_NOT_STORED = (
    *("target_token", "max_length", "no_repeat_ngram_size", "repetition_penalty"),
    *("forbidden_ids", "first_id", "choose"),
)
TOKENIZER_FILES = ("source.spm", "target.spm")

# The projections of ours that each linear layer of CTranslate2 holds.
_SELF_ATTENTION = (("query", "key", "value"), ("output",))
_CROSS_ATTENTION = (("query",), ("key", "value"), ("output",))
_SIDES = ("source", "target")


def export_ctranslate2(
    config: Config, params: Any, tokenizers: Tokenizers, output: Path, *, quantization: str = ""
) -> None:
    """Writes a folder that ctranslate2.Translator loads, with the SentencePiece models.

    `quantization` is one of `QUANTIZATIONS`; "" = float32.

    Raises:
      UserError: naming the option that the format does not have, or the weight that is not finite;
        or if the folder is not empty or cannot be written, or a package is not installed.
    """
    if quantization and quantization not in QUANTIZATIONS:
        raise UserError(
            f"--quantization={quantization} is none of: {', '.join(QUANTIZATIONS)} "
            "(leave it out for float32)"
        )
    specs = require_package("ctranslate2.specs")
    if quantization.endswith("bfloat16"):
        require_package("torch")  # numpy has no bfloat16
    params = jax.device_get(params)
    require_finite(params)
    spec = _model_spec(specs, config.model, params)
    spec.register_source_vocabulary(tokenizers.source.vocabulary)
    spec.register_target_vocabulary(tokenizers.target.vocabulary)
    pieces = tokenizers.target.vocabulary
    spec.config.unk_token, spec.config.eos_token = pieces[UNK_ID], pieces[EOS_ID]
    spec.config.bos_token = spec.config.decoder_start_token = pieces[BOS_ID]
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = config.model.layer_norm_epsilon
    spec.validate()
    spec.optimize(quantization=quantization or None)
    log_lost(config, _NOT_STORED, "CTranslate2")
    require_empty(output, "--output")
    make_folder(output)
    try:
        spec.save(str(output))
    except OSError as e:
        raise UserError(f"cannot write {output}: {e.strerror}") from None
    for tokenizer, name in zip(tokenizers, TOKENIZER_FILES, strict=True):
        tokenizer.save(output / name)


def _model_spec(specs: Any, model: ModelConfig, params: Any) -> Any:
    """CTranslate2's TransformerSpec with the weights."""
    options = {
        "num_heads": model.num_heads,
        "head_dim": _head_width(model),
        "pre_norm": model.norm == "pre",
        # GELU is the exact one, as ours; GELUTanh is the approximation.
        "activation": specs.Activation[model.activation.upper()],
    }
    encoder = specs.transformer_spec.TransformerEncoderSpec(model.encoder_depth, **options)
    decoder = specs.transformer_spec.TransformerDecoderSpec(model.decoder_depth, **options)
    source, target = (params.get(f"{s}_embedding", params.get("embedding")) for s in _SIDES)
    encoder.embeddings[0].weight, decoder.embeddings.weight = _copy(source), _copy(target)
    _set_linear(decoder.projection, params.get("softmax", target).T, params.get("logits_bias"))
    for spec, side, part in zip((encoder, decoder), _SIDES, ("encoder", "decoder"), strict=True):
        spec.scale_embeddings = model.scale_embeddings
        spec.position_encodings.encodings = _positions(model, params, side)
        if model.norm == "pre":
            _set_norm(spec.layer_norm, params[f"{part}_norm"])
        for number, layer in enumerate(spec.layer):
            _set_layer(layer, params[f"{part}_{number}"])
    return specs.TransformerSpec(encoder, decoder)


def _head_width(model: ModelConfig) -> int:
    width = model.d_model // model.num_heads
    d_key, d_value = model.d_key or width, model.d_value or width
    if d_key != d_value:
        raise UserError(
            f"CTranslate2 has one width for keys and values, but model.d_key={d_key} and "
            f"model.d_value={d_value} differ"
        )
    return d_key


def _positions(model: ModelConfig, params: Any, side: str) -> np.ndarray:
    """The encodings [P, D] that are added to the embeddings."""
    if model.positions == "learned":
        return _copy(params[f"{side}_positions"])
    positions = jnp.arange(SINUSOIDAL_POSITIONS)
    return _copy(sinusoidal_positions(positions, model.d_model, layout=model.sinusoid_layout))


def _set_layer(spec: Any, params: Any) -> None:
    _set_attention(spec.self_attention, params, "self_attention", _SELF_ATTENTION)
    if "cross_attention" in params:
        _set_attention(spec.attention, params, "cross_attention", _CROSS_ATTENTION)
    feed_forward = params["feed_forward"]
    _set_linear(spec.ffn.linear_0, feed_forward["w1"], feed_forward["b1"])
    _set_linear(spec.ffn.linear_1, feed_forward["w2"], feed_forward["b2"])
    _set_norm(spec.ffn.layer_norm, params["feed_forward_residual"]["norm"])


def _set_attention(spec: Any, params: Any, name: str, contents: Sequence[Sequence[str]]) -> None:
    attention = params[name]
    for linear, parts in zip(spec.linear, contents, strict=True):
        biases = [attention[f"{p}_bias"].ravel() for p in parts if f"{p}_bias" in attention]
        kernels = [_as_matrix(attention[f"{p}_kernel"], p) for p in parts]
        bias = np.concatenate(biases) if biases else None
        _set_linear(linear, np.concatenate(kernels, axis=1), bias)
    _set_norm(spec.layer_norm, params[f"{name}_residual"]["norm"])


def _as_matrix(kernel: np.ndarray, part: str) -> np.ndarray:
    """[D, N, H] → [D, N·H], and the output's [N, H, D] → [N·H, D]."""
    first, last = kernel.shape[0], kernel.shape[-1]
    return kernel.reshape(-1, last) if part == "output" else kernel.reshape(first, -1)


def _set_linear(spec: Any, kernel: np.ndarray, bias: np.ndarray | None = None) -> None:
    """Sets a linear layer, whose weight is [out, in], from a kernel [in, out]."""
    spec.weight = _copy(kernel.T)
    if bias is not None:
        spec.bias = _copy(bias)


def _set_norm(spec: Any, params: Any) -> None:
    spec.gamma, spec.beta = _copy(params["scale"]), _copy(params["bias"])


def _copy(weight: Any) -> np.ndarray:
    # Quantisation writes into its argument, and saving reads the memory in the order it has.
    return np.array(weight, np.float32, order="C")
