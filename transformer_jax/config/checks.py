"""Whether the options of a configuration are within their ranges and can work together."""

import dataclasses
import re
from typing import Any

from transformer_jax.config.options import OPTIONS, Config, DecodeConfig, flatten, nearest_option
from transformer_jax.errors import UserError


def check_config(config: Config) -> Config:
    """Returns `config` if each option is within its range, and all can work together.

    Raises:
      UserError: naming an option, its value, and what it could be or which value it disagrees with.
    """
    _check_names(config)
    for name, value in flatten(config).items():
        OPTIONS[name].check(value)
    _check_shapes(config)
    _check_intervals(config)
    _check_mesh(config)
    _check_start(config)
    _check_frozen(config.train.frozen)
    forbidden_sequences(config.decode)
    _check_candidates(config.decode)
    if config.model.attention != "xla":
        _check_fused_attention(config)
    return config


def forbidden_sequences(decode: DecodeConfig) -> tuple[tuple[int, ...], ...]:
    """The sequences that decode.forbidden_ids writes down: "5, 6 7" is ((5,), (6, 7)).

    Raises:
      UserError: if it is not of that form.
    """
    texts = decode.forbidden_ids.split(",") if decode.forbidden_ids.strip() else []
    rows = [text.split() for text in texts]
    if not all(row and all(re.fullmatch("[0-9]+", word) for word in row) for row in rows):
        raise UserError(
            f"decode.forbidden_ids={decode.forbidden_ids!r} is not ids of pieces, in sequences "
            'with commas between them, as "5, 6 7" is'
        )
    return tuple(tuple(map(int, row)) for row in rows)


def _check_names(group: Any, prefix: str = "") -> None:
    # Python sets an attribute that a dataclass lacks without a word.
    for name, value in vars(group).items():
        if dataclasses.is_dataclass(value):
            _check_names(value, f"{prefix}{name}.")
        elif prefix + name not in OPTIONS:
            raise UserError(f"there is no option {prefix}{name}{nearest_option(prefix + name)}")


def _check_shapes(config: Config) -> None:
    model, data, train = config.model, config.data, config.train
    if model.d_model % model.num_heads and not (model.d_key and model.d_value):
        raise UserError(
            f"model.d_model={model.d_model} is not divisible by model.num_heads={model.num_heads}: "
            "change one, or set model.d_key and model.d_value"
        )
    if model.d_model % 2 and model.positions == "sinusoidal":
        raise UserError(f"model.d_model={model.d_model} must be even for sinusoidal positions")
    if not data.shared_vocabulary and model.tied_embeddings in ("all", "source_target"):
        raise UserError(
            f"model.tied_embeddings={model.tied_embeddings!r} needs one vocabulary, and "
            "data.shared_vocabulary=False: set model.tied_embeddings to target_softmax or none"
        )
    longest = max(data.source_row_length, data.target_row_length)
    if model.positions == "learned" and model.max_positions < longest:
        raise UserError(
            f"model.max_positions={model.max_positions} is less than the row length {longest}"
        )
    rates = "dropout_rate", "attention_dropout_rate", "activation_dropout_rate"
    if train.r_drop and not any(getattr(model, rate) for rate in rates):
        raise UserError(
            f"train.r_drop={train.r_drop} needs dropout, and model.{', '.join(rates)} are all 0"
        )
    if data.batch_rows % train.accumulate:
        raise UserError(
            f"data.batch_rows={data.batch_rows} is not divisible by "
            f"train.accumulate={train.accumulate}"
        )


def _check_intervals(config: Config) -> None:
    train = config.train
    if train.evaluate_every % train.checkpoint_every:
        raise UserError(
            f"train.evaluate_every={train.evaluate_every} is not a multiple of "
            f"train.checkpoint_every={train.checkpoint_every}"
        )
    if train.patience and not train.evaluate_every:
        raise UserError(
            f"train.patience={train.patience} counts validations, and train.evaluate_every=0 makes "
            "none: set it to the steps between them"
        )


def _check_start(config: Config) -> None:
    if config.train.start_from and config.model.pretrained_embeddings:
        raise UserError(
            f"model.pretrained_embeddings={config.model.pretrained_embeddings} and train.start_from"
            f"={config.train.start_from} both decide the first embeddings: leave one out"
        )


def _check_frozen(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as e:
        raise UserError(f"train.frozen={pattern!r} is no regular expression: {e}") from None


def _check_mesh(config: Config) -> None:
    parallel = config.parallel
    sizes = parallel.data, parallel.fsdp, parallel.tensor
    if parallel.strategy in ("single", "pmap") and sizes != (-1, 1, 1):
        raise UserError(
            f"parallel.strategy={parallel.strategy!r} has no mesh, and parallel.data, fsdp and "
            f"tensor are {', '.join(map(str, sizes))}: set parallel.strategy to mesh"
        )


def _check_candidates(decode: DecodeConfig) -> None:
    beam = decode.method == "beam"
    if decode.choose == "model" or decode.method == "sample" or (beam and decode.beam_size > 1):
        return
    size = f" and decode.beam_size={decode.beam_size}" if beam else ""
    raise UserError(
        f"decode.choose={decode.choose!r} chooses among candidates, and decode.method="
        f"{decode.method!r}{size} finds one: set decode.method to sample, or to beam with a "
        "decode.beam_size of at least 2"
    )


def _check_fused_attention(config: Config) -> None:
    model, data = config.model, config.data
    cudnn = model.attention == "cudnn"
    name = f"model.attention={model.attention!r}"
    if model.attention_dropout_rate:
        raise UserError(
            f"{name} has no dropout on attention weights: set model.attention_dropout_rate="
            f"{model.attention_dropout_rate} to 0, or model.attention to 'xla'"
        )
    if cudnn and model.compute_dtype != "bfloat16":
        raise UserError(f"{name} needs model.compute_dtype=bfloat16, not {model.compute_dtype}")
    d_key, d_value = (d or model.d_model // model.num_heads for d in (model.d_key, model.d_value))
    if cudnn and (d_key != d_value or d_key % 8 or d_key > 128):
        raise UserError(
            f"{name} needs keys and values of one width, a multiple of 8 and at most 128: "
            f"they are {d_key} and {d_value} wide (model.d_key, model.d_value)"
        )
    parallel = config.parallel
    if not cudnn and (parallel.strategy == "mesh" or parallel.fsdp != 1 or parallel.tensor != 1):
        raise UserError(
            f"{name} cannot be sharded over a mesh: set parallel.strategy to single or pmap"
        )
    multiple = 2 if cudnn else 128
    for side in ("source", "target"):
        length = getattr(data, f"{side}_row_length")
        if length % multiple:
            raise UserError(f"{name} needs data.{side}_row_length={length} divisible by {multiple}")
