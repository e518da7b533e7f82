"""How a Marian model translates: generation_config.json ↔ our `decode` options.

Early versions of transformers keep the same options in config.json. What neither file says is that
of Hugging Face's `generate`, except that a translation may be `decode.extra_length` pieces longer
than its source, not 20 pieces long. An option that changes translations and that we lack is named.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformer_jax.config.checks import forbidden_sequences
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, DecodeConfig
from transformer_jax.console import log
from transformer_jax.errors import UserError

# Honoured by `to_decode`, or by what reads the architecture and the ids.
_HONOURED = (
    *("num_beams", "length_penalty", "max_length", "max_new_tokens", "no_repeat_ngram_size"),
    *("repetition_penalty", "bad_words_ids", "forced_bos_token_id"),
    *("pad_token_id", "eos_token_id", "decoder_start_token_id"),
    *("model_type", "vocab_size", "decoder_vocab_size", "d_model", "scale_embedding"),
    *("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "activation_function"),
    *("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim", "is_encoder_decoder"),
    *("share_encoder_decoder_embeddings", "tie_word_embeddings", "dropout", "attention_dropout"),
    *("normalize_before", "normalize_embedding", "add_final_layer_norm"),
    *("static_position_embeddings", "activation_dropout"),
)
# What changes no translation, whatever its value.
_HARMLESS = (
    *("architectures", "dtype", "torch_dtype", "transformers_version", "tokenizer_class"),
    *("id2label", "label2id", "num_labels", "problem_type", "num_hidden_layers", "init_std"),
    *("max_position_embeddings", "extra_pos_embeddings", "gradient_checkpointing", "use_cache"),
    *("output_past", "output_attentions", "output_hidden_states", "output_scores", "torchscript"),
    *("output_logits", "return_dict", "return_dict_in_generate", "bos_token_id", "pruned_heads"),
    *("cache_implementation", "chunk_size_feed_forward", "tf_legacy_loss", "use_bfloat16"),
    *("classif_dropout", "classifier_dropout", "is_decoder", "add_cross_attention"),
    *("cross_attention_hidden_size", "tie_encoder_decoder", "attn_implementation"),
)
# The value that changes nothing, where null is not the only one.
_DEFAULTS = {
    **{"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0},
    **{"epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "num_beam_groups": 1, "diversity_penalty": 0.0},
    **{"encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "min_length": 0},
    **{"min_new_tokens": 0, "remove_invalid_values": False, "num_return_sequences": 1},
    **{"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0},
    **{"add_bias_logits": False, "force_bos_token_to_be_generated": False},
    **{
        "renormalize_logits": False,
        "guidance_scale": 1.0,
        "token_healing": False,
        "low_memory": False,
    },
}
_LONGEST_VALUE = 60


def to_decode(options: Mapping[str, Any], order: Sequence[int]) -> DecodeConfig:
    """Our options of decoding; logs one line that names what is not honoured.

    `options` is the content of both files, and `order` is Marian's row for each of ours.

    Raises:
      UserError: naming an option whose value is not of its type or not in the vocabulary.
    """
    decode = DecodeConfig(length_penalty_form="power", beam_size=get(options, "num_beams", int, 1))
    decode.method = "beam" if decode.beam_size > 1 else "greedy"
    decode.length_penalty = get(options, "length_penalty", float, 1.0)
    decode.no_repeat_ngram_size = get(options, "no_repeat_ngram_size", int, 0)
    decode.repetition_penalty = get(options, "repetition_penalty", float, 1.0)
    decode.max_length = _max_length(options)
    # A row that <bos> borrows is in `order` twice, the piece itself first.
    ids = {row: our_row for our_row, row in reversed(tuple(enumerate(order)))}
    decode.forbidden_ids = _forbidden_ids(options, ids)
    if options.get("forced_bos_token_id") is not None:
        name = "forced_bos_token_id"
        first = _our_id(name, get(options, name, int), ids)
        decode.first_id = first if first >= EOS_ID else 0  # no search generates the others
    if lost := _not_honoured(options, decode):
        log(
            "warning: these options of config.json and generation_config.json are not honoured, "
            f"and translations may differ: {', '.join(lost)}"
        )
    return decode


def _max_length(options: Mapping[str, Any]) -> int:
    """The most pieces that are generated; Marian's max_length counts the start, too."""
    if options.get("max_new_tokens") is not None:
        return get(options, "max_new_tokens", int)
    length = get(options, "max_length", int, 1)
    if length == 1 and options.get("max_length") is not None:
        raise UserError("the model has max_length=1, which leaves no piece to generate")
    return length - 1


def _forbidden_ids(options: Mapping[str, Any], ids: Mapping[int, int]) -> str:
    """bad_words_ids as decode.forbidden_ids, without what no search of ours generates."""
    name = "bad_words_ids"
    sequences = options.get(name) or []
    if not isinstance(sequences, list) or not all(
        isinstance(row, list) and row and all(type(i) is int for i in row) for row in sequences
    ):
        raise UserError(f"the model has {name}={sequences!r}, which is not lists of ids")
    ours = []
    for row in sequences:
        ours.append([_our_id(name, i, ids) for i in row])
        if len(row) > 1 and row[0] == options.get("decoder_start_token_id"):
            ours[-1][0] = BOS_ID  # what a translation may not begin with
    # Hugging Face does not forbid eos by itself.
    never = ([PAD_ID], [UNK_ID], [BOS_ID], [EOS_ID])
    texts = [" ".join(map(str, row)) for row in ours if row not in never]
    return ", ".join(dict.fromkeys(texts))


def _our_id(name: str, theirs: int, ids: Mapping[int, int]) -> int:
    if theirs not in ids:
        raise UserError(f"the model has {name} with id {theirs}, which no piece has")
    return ids[theirs]


def _not_honoured(options: Mapping[str, Any], decode: DecodeConfig) -> list[str]:
    """ "min_length=5", …: what is neither honoured, nor harmless, nor the default."""
    defaults = dict(_DEFAULTS)
    defaults["forced_eos_token_id"] = options.get("eos_token_id")
    # "never" is what our search does; False, Hugging Face's default, seldom finds anything else.
    defaults["early_stopping"] = "never" if options.get("early_stopping") == "never" else False
    plain = DecodeConfig()
    changing = ("no_repeat_ngram_size", "repetition_penalty", "forbidden_ids")
    if all(getattr(decode, name) == getattr(plain, name) for name in changing):
        # It shares out what <pad> and <unk> had, which is next to nothing.
        defaults["renormalize_logits"] = options.get("renormalize_logits")
    found = []
    for name, value in sorted(options.items()):
        known = name in _HONOURED or name in _HARMLESS or name.startswith("_")
        if name == "forced_bos_token_id":
            known = decode.first_id > 0
        if not known and value is not None and value != defaults.get(name):
            text = repr(value)
            short = text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
            found.append(f"{name}={short}")
    return found


def get(options: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """An option's value, which must be a `kind`, or its default if it is missing or null.

    Raises:
      UserError: if it is missing and has no default, or has another type.
    """
    value = options.get(name)
    value = default if value is None else value
    if value is None:
        raise UserError(f"config.json lacks {name}")
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(f"the model has {name}={value!r}, which is not of type {kind.__name__}")
    return kind(value)


def their_ids(order: Sequence[int], start: int) -> dict[str, Any]:
    """The ids of special pieces; `order` is our row for each of theirs, and `start` begins."""
    eos = order.index(EOS_ID)
    return {
        "pad_token_id": order.index(PAD_ID),
        "eos_token_id": eos,
        "bos_token_id": None,
        "decoder_start_token_id": start,
        "forced_eos_token_id": eos,
    }


def to_generation(decode: DecodeConfig, order: Sequence[int], start: int) -> dict[str, Any]:
    """The content of generation_config.json; see `their_ids` for `order` and `start`."""
    rows = {our_row: row for row, our_row in enumerate(order)} | {BOS_ID: start}
    never = {rows[PAD_ID], rows[UNK_ID]}
    if order[start] == BOS_ID:
        never.add(start)
    sequences = [[rows[i] for i in row] for row in forbidden_sequences(decode)]
    options = {
        **their_ids(order, start),
        "num_beams": decode.beam_size if decode.method == "beam" else 1,
        "bad_words_ids": [*([token] for token in sorted(never)), *sequences],
        # The default of transformers is 20, which truncates sentences; it counts the start.
        "max_length": decode.max_length + 1 if decode.max_length else 512,
        "no_repeat_ngram_size": decode.no_repeat_ngram_size,
        "repetition_penalty": decode.repetition_penalty,
        "forced_bos_token_id": rows[decode.first_id] if decode.first_id else None,
    }
    if options["num_beams"] > 1:
        options["early_stopping"] = "never"
    if decode.length_penalty_form == "power":
        return options | {"length_penalty": decode.length_penalty}
    if options["num_beams"] > 1 and decode.length_penalty:
        log(
            f"transformers has no decode.length_penalty_form={decode.length_penalty_form!r}: "
            "its length_penalty keeps the default, 1"
        )
    return options
