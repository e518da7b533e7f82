"""Whether the options of a configuration can work together."""

import math

from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError

_CHOICES = {
    "model.activation": ("relu", "gelu", "swish"),
    "model.norm": ("post", "pre"),
    "model.positions": ("sinusoidal", "learned"),
    "model.sinusoid_layout": ("interleaved", "halves"),
    "model.tied_embeddings": ("all", "source_target", "target_softmax", "none"),
    "model.kernel_init": ("glorot_uniform", "glorot_normal", "lecun_normal"),
    "model.compute_dtype": ("float32", "bfloat16"),
    "model.attention": ("xla", "cudnn", "splash"),
    "train.rng": ("threefry", "rbg"),
    "optimizer.schedule": ("inverse_sqrt", "cosine"),
    "decode.length_penalty_form": ("gnmt", "power"),
    "decode.method": ("beam", "greedy", "sample"),
    "parallel.strategy": ("auto", "single", "pmap", "mesh"),
}
_POSITIVE = (
    *("data.vocab_size", "data.source_row_length", "data.target_row_length", "data.batch_rows"),
    *("model.num_layers", "model.d_model", "model.d_ff", "model.num_heads", "model.max_positions"),
    *("optimizer.warmup_steps", "optimizer.learning_rate_scale", "optimizer.epsilon"),
    *("train.steps", "train.accumulate", "train.log_every", "train.checkpoint_every"),
    *("train.average_checkpoints", "train.max_skipped", "train.divergence_steps"),
    *("train.grace_seconds", "decode.beam_size", "decode.batch_size"),
    *("decode.temperature", "decode.top_p", "model.layer_norm_epsilon"),
)
_NOT_NEGATIVE = (
    *("data.train_size", "data.held_out_size", "model.d_key", "model.d_value", "seed"),
    *("model.embedding_stddev", "optimizer.clip_norm", "train.evaluate_every"),
    *(
        "train.evaluate_sentences",
        "train.keep_every",
        "train.divergence_factor",
        "decode.extra_length",
        "decode.top_k",
    ),
)
_SIZES = ("parallel.data", "parallel.fsdp", "parallel.tensor")
_BELOW_ONE = (
    *("model.dropout_rate", "model.attention_dropout_rate", "optimizer.label_smoothing"),
    *("optimizer.beta1", "optimizer.beta2"),
)


def check_config(config: Config) -> Config:
    """Returns `config` when its values can work together.

    Raises:
      UserError: naming the option, its value, and the values it could have.
    """
    options = flatten(config)
    for name, choices in _CHOICES.items():
        if options[name] not in choices:
            raise UserError(f"{name}={options[name]!r} is none of: {', '.join(choices)}")
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}={value} must be a finite number")
    for name in _POSITIVE:
        if not options[name] > 0:
            raise UserError(f"{name}={options[name]} must be positive")
    for name in _SIZES:
        if not (options[name] > 0 or options[name] == -1):
            raise UserError(f"{name}={options[name]} must be positive, or -1: the rest of them")
    for name in _NOT_NEGATIVE:
        if not options[name] >= 0:
            raise UserError(f"{name}={options[name]} must not be negative")
    for name in _BELOW_ONE:
        if not 0 <= options[name] < 1:
            raise UserError(f"{name}={options[name]} must be at least 0 and less than 1")
    _validate_together(config)
    if config.model.attention != "xla":
        _validate_fused_attention(config)
    return config


def _validate_together(config: Config) -> None:
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
            f"data.shared_vocabulary=False cannot go with model.tied_embeddings="
            f"{model.tied_embeddings!r}: give target_softmax or none"
        )
    longest = max(data.source_row_length, data.target_row_length)
    if model.positions == "learned" and model.max_positions < longest:
        raise UserError(
            f"model.max_positions={model.max_positions} is less than the row length {longest}"
        )
    if data.batch_rows % train.accumulate:
        raise UserError(
            f"data.batch_rows={data.batch_rows} is not divisible by "
            f"train.accumulate={train.accumulate}"
        )
    if train.evaluate_every % train.checkpoint_every:
        raise UserError(
            f"train.evaluate_every={train.evaluate_every} is not a multiple of "
            f"train.checkpoint_every={train.checkpoint_every}"
        )
    if 0 < train.divergence_factor <= 1:
        raise UserError(
            f"train.divergence_factor={train.divergence_factor} must be more than 1, or 0: never"
        )
    if train.keep_every % train.checkpoint_every:
        raise UserError(
            f"train.keep_every={train.keep_every} is not a multiple of "
            f"train.checkpoint_every={train.checkpoint_every}"
        )
    if config.seed >= 2**32:
        raise UserError(f"seed={config.seed} must be less than 2^32")
    parallel = config.parallel
    sizes = parallel.data, parallel.fsdp, parallel.tensor
    if parallel.strategy in ("single", "pmap") and sizes != (-1, 1, 1):
        raise UserError(
            f"parallel.strategy={parallel.strategy!r} takes no sizes of a mesh (data, fsdp and "
            f"tensor are {', '.join(map(str, sizes))}): give strategy=mesh"
        )
    if config.decode.top_p > 1:
        raise UserError(f"decode.top_p={config.decode.top_p} must be at most 1")


def _validate_fused_attention(config: Config) -> None:
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
            f"{name} needs heads as wide in keys as in values, of at most 128 and a multiple of 8: "
            f"they are {d_key} and {d_value} wide (model.d_key, model.d_value)"
        )
    parallel = config.parallel
    if not cudnn and (parallel.strategy == "mesh" or parallel.fsdp != 1 or parallel.tensor != 1):
        raise UserError(f"{name} cannot be cut over a mesh: give parallel.strategy=single or pmap")
    multiple = 2 if cudnn else 128
    for side in ("source", "target"):
        length = getattr(data, f"{side}_row_length")
        if length % multiple:
            raise UserError(f"{name} needs data.{side}_row_length={length} divisible by {multiple}")
