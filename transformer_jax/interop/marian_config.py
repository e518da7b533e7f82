"""The architecture of a Marian model in Hugging Face's config.json ↔ our configuration."""

from collections.abc import Sequence
from typing import Any

from transformer_jax.config.checks import check_config
from transformer_jax.config.options import Config, DecodeConfig, ModelConfig
from transformer_jax.console import log
from transformer_jax.errors import UserError
from transformer_jax.interop.marian_generation import get, their_ids

_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "swish", "silu": "swish"}
# Options that are one number of ours, and in Marian one for each side.
_SIDES = {"attention_heads": "num_heads", "ffn_dim": "d_ff"}
# (share_encoder_decoder_embeddings, tie_word_embeddings) for each model.tied_embeddings.
_TIED = {
    "all": (True, True),
    "source_target": (True, False),
    "target_softmax": (False, True),
    "none": (False, False),
}
# Options of early versions, and the only value of each that is supported.
_FIXED = {
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
    "is_encoder_decoder": True,
}


def to_model_config(theirs: dict[str, Any], *, one_table: bool) -> ModelConfig:
    """Our architecture for the content of config.json.

    `one_table` is whether the embeddings of source and target have the same values.

    Raises:
      UserError: naming an option that is missing or not supported.
    """
    if (kind := theirs.get("model_type", "marian")) != "marian":
        raise UserError(f"config.json has model_type={kind!r}: only 'marian' can be imported")
    for name, value in _FIXED.items():
        if theirs.get(name, value) != value:
            raise UserError(f"config.json has {name}={theirs[name]!r}: only {value} is supported")
    both = {}
    for name, ours in _SIDES.items():
        both[ours] = get(theirs, f"encoder_{name}", int)
        if (other := get(theirs, f"decoder_{name}", int)) != both[ours]:
            raise UserError(
                f"config.json has encoder_{name}={both[ours]} and decoder_{name}={other}: "
                "only models with the same on both sides are supported"
            )
    depth, decoder_depth = (get(theirs, f"{side}_layers", int) for side in ("encoder", "decoder"))
    if min(depth, decoder_depth) < 1:  # 0 of ours means: as many as the other side has
        raise UserError(
            f"config.json has encoder_layers={depth} and decoder_layers={decoder_depth}: "
            "each must be at least 1"
        )
    activation = get(theirs, "activation_function", str)
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"config.json has activation_function={activation!r}, which is none of: "
            + ", ".join(_ACTIVATIONS)
        )
    shared = get(theirs, "share_encoder_decoder_embeddings", bool, True)
    softmax = get(theirs, "tie_word_embeddings", bool, True)
    # Some versions tie everything or nothing, whatever the first option is.
    tied = (shared and (softmax or one_table), softmax)
    return ModelConfig(
        **both,
        num_layers=depth,
        num_decoder_layers=0 if decoder_depth == depth else decoder_depth,
        d_model=get(theirs, "d_model", int),
        dropout_rate=get(theirs, "dropout", float, 0.1),
        attention_dropout_rate=get(theirs, "attention_dropout", float, 0.0),
        activation_dropout_rate=get(theirs, "activation_dropout", float, 0.0),
        activation=_ACTIVATIONS[activation],
        norm="post",
        layer_norm_epsilon=1e-5,
        sinusoid_layout="halves",
        attention_bias=True,
        tied_embeddings=next(name for name, options in _TIED.items() if options == tied),
        scale_embeddings=get(theirs, "scale_embedding", bool, False),
        logits_bias=True,
    )


def to_config(
    name: str,
    model: ModelConfig,
    decode: DecodeConfig,
    *,
    vocab_size: int,
    shared_vocabulary: bool,
    languages: dict[str, Any],
) -> Config:
    """Our configuration of an imported model.

    `vocab_size` counts our rows of the target's table; `languages` is the content of
    tokenizer_config.json, or {}.

    Raises:
      UserError: if the values cannot work together.
    """
    config = Config(name=name, model=model, decode=decode)
    data = config.data
    data.corpus = "files"
    # "und" is ISO 639's code for an undetermined language.
    data.source_language, data.target_language = (
        get(languages, side, str, "und") for side in ("source_lang", "target_lang")
    )
    if "und" in (data.source_language, data.target_language):
        log(
            f"{name} does not name its languages: data.source_language="
            f"{data.source_language!r}, data.target_language={data.target_language!r}"
        )
    data.vocab_size = vocab_size
    data.shared_vocabulary = shared_vocabulary
    return check_config(config)


def check_exportable(model: ModelConfig) -> None:
    """Raises UserError, naming every option with a value that Marian does not have."""
    width = model.d_model // model.num_heads
    needed = {
        "norm": ("post",),
        "layer_norm_epsilon": (1e-5,),
        "positions": ("sinusoidal",),
        "sinusoid_layout": ("halves",),
        "d_key": (0, width),
        "d_value": (0, width),
    }
    wrong = [
        f"model.{name}={value!r} (Marian has {values[-1]!r})"
        for name, values in needed.items()
        if (value := getattr(model, name)) not in values
    ]
    if model.d_model % model.num_heads:
        wrong.append(
            f"model.d_model={model.d_model} (Marian needs a multiple of "
            f"model.num_heads={model.num_heads})"
        )
    if wrong:
        raise UserError(f"this model cannot be exported to Marian: {', '.join(wrong)}")


def to_marian(
    model: ModelConfig, sizes: Sequence[int], order: Sequence[int], start: int
) -> dict[str, Any]:
    """The content of config.json.

    `sizes` are the rows of the source's and the target's table, `order` is our row for each of the
    target's, and `start` is the row that begins a translation.
    """
    one_table, softmax = _TIED[model.tied_embeddings]
    both = {
        f"{side}_{name}": getattr(model, ours)
        for side in ("encoder", "decoder")
        for name, ours in _SIDES.items()
    }
    return {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "dtype": "float32",
        "is_encoder_decoder": True,
        "vocab_size": sizes[0],
        "decoder_vocab_size": sizes[1],
        "d_model": model.d_model,
        "encoder_layers": model.encoder_depth,
        "decoder_layers": model.decoder_depth,
        **both,
        "activation_function": model.activation,
        "dropout": model.dropout_rate,
        "attention_dropout": model.attention_dropout_rate,
        "activation_dropout": model.activation_dropout_rate,
        "scale_embedding": model.scale_embeddings,
        "share_encoder_decoder_embeddings": one_table,
        "tie_word_embeddings": softmax,
        # How many sinusoids transformers computes; ours are unlimited.
        "max_position_embeddings": 1024,
        **their_ids(order, start),
    }
