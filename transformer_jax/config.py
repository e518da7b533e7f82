"""The configuration of one experiment: typed dataclasses, one default per option.

An experiment file returns a `Config`; any option is set from the command line as
`--config.model.num_layers=2` (ml_collections' config_flags reads the types here, so they are plain
int, float, bool and str). `validate` refuses what cannot work, naming both values.
"""

import dataclasses
import difflib
import json
import math
import os
from dataclasses import field
from pathlib import Path
from typing import Any

# The same in every vocabulary, so that the model needs no tokenizer to know what padding is.
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)


# In a workdir.
CONFIG_FILE = "config.json"
WEIGHTS = ("average", "latest", "best")  # which checkpoints to translate with


class UserError(ValueError):
    """What a user caused and can mend: the launcher prints it as one line, without a traceback."""


class Preempted(BaseException):
    """A signal asked a run to stop, and it has; says what is saved.

    Not an Exception: the launcher alone handles it, and ends with `PREEMPTED_STATUS`.
    """


PREEMPTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same line, run again, goes on


@dataclasses.dataclass
class DataConfig:
    """Where text comes from, and how it becomes rows of tokens."""

    # "small_world", "hsk", "files", or "tfds:<name>", e.g. "tfds:wmt14_translate/de-en".
    corpus: str = "small_world"
    source_language: str = "zh"
    target_language: str = "en"
    # files: the folder that relative names in train, valid and test start from.
    path: str = ""
    # files: "a.en,a.de" (source first) or "pairs.tsv"; tfds: the name of a split; else unused.
    train: str = ""
    valid: str = ""
    test: str = ""
    # Training pairs to generate (small_world) or to keep (elsewhere; 0 = all).
    train_size: int = 0
    # Pairs held out of training for each of valid and test that is not given.
    held_out_size: int = 1000
    # Pieces; 256 of them are bytes, so that nothing is unknown.
    vocab_size: int = 8000
    # One vocabulary for both languages, as in the paper; or one of vocab_size for each.
    shared_vocabulary: bool = True
    # Tokens in one packed row. A pair that is longer than a row is left out, and counted.
    source_row_length: int = 64
    target_row_length: int = 64
    # Rows in one global batch, whatever the number of devices.
    batch_rows: int = 64


@dataclasses.dataclass
class ModelConfig:
    """The architecture; the defaults are the paper's base model (Table 3)."""

    num_layers: int = 6
    d_model: int = 512
    d_ff: int = 2048
    num_heads: int = 8
    # Width of one head's queries and keys, and of its values; 0 = d_model / num_heads.
    d_key: int = 0
    d_value: int = 0
    # On embeddings and on the output of each sub-layer (section 5.4).
    dropout_rate: float = 0.1
    # On attention weights; not in the paper.
    attention_dropout_rate: float = 0.0
    # In the feed-forward network: "relu", the paper; "gelu"; "swish", Marian's.
    activation: str = "relu"
    # "post": LayerNorm(x + Sublayer(x)), the paper; "pre": x + Sublayer(LayerNorm(x)).
    norm: str = "post"
    # Tensor2Tensor's 1e-6; PyTorch's default is 1e-5.
    layer_norm_epsilon: float = 1e-6
    # "sinusoidal", the paper; "learned", its Table 3 row E.
    positions: str = "sinusoidal"
    # "interleaved", the paper's formula; "halves", sines then cosines, as in Marian.
    sinusoid_layout: str = "interleaved"
    # learned positions: how many there are.
    max_positions: int = 1024
    # The paper's formulas have none; PyTorch's and Marian's attention has.
    attention_bias: bool = False
    # Which embeddings are one table. "all": source, target and softmax, the paper (section 3.4);
    # "source_target"; "target_softmax"; "none". Separate vocabularies need one of the last two.
    tied_embeddings: str = "all"
    # Embeddings times √d_model, as in section 3.4.
    scale_embeddings: bool = True
    # A bias on the logits, which the paper's softmax has not and Marian's has.
    logits_bias: bool = False
    # Tensor2Tensor's and PyTorch's "glorot_uniform", or any of "glorot_normal", "lecun_normal".
    kernel_init: str = "glorot_uniform"
    # Standard deviation of the embeddings; 0 = d_model^-0.5, Tensor2Tensor's.
    embedding_stddev: float = 0.0
    # Word vectors that the embeddings start from, word2vec's or GloVe's text form; "" = none.
    pretrained_embeddings: str = ""
    # dtype of matmuls; parameters, softmax, statistics, logits and loss are always float32.
    compute_dtype: str = "float32"
    # What computes attention in training: "xla", the plain function; "cudnn" on NVIDIA GPUs and
    # "splash" on TPUs, which never store its weights. All else takes the plain function.
    attention: str = "xla"
    # Keep only what enters each layer for the gradient, and compute the rest again: less memory,
    # for the time of one more forward pass. XLA for CPUs undoes it.
    remat: bool = False


@dataclasses.dataclass
class OptimizerConfig:
    """Adam and its schedule (Vaswani et al. 2017, section 5.3)."""

    # "inverse_sqrt": scale · d_model^-0.5 · min(step^-0.5, step · warmup_steps^-1.5), the paper;
    # "cosine": linear to scale over warmup_steps, then to 0 at train.steps.
    schedule: str = "inverse_sqrt"
    learning_rate_scale: float = 1.0
    warmup_steps: int = 4000
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-9
    # Largest global norm of the gradient; 0 = no clipping, as in the paper.
    clip_norm: float = 0.0
    label_smoothing: float = 0.1


@dataclasses.dataclass
class TrainConfig:
    """The loop."""

    steps: int = 100_000
    # Micro-batches that one global batch is cut into, to save memory.
    accumulate: int = 1
    # Random numbers of dropout. "threefry": the same on any devices; "rbg": faster on TPUs, but
    # they then depend on how many devices and micro-batches share the rows.
    rng: str = "threefry"
    log_every: int = 50
    checkpoint_every: int = 1000
    # Validation loss and greedy BLEU; a multiple of checkpoint_every. 0 = never.
    evaluate_every: int = 5000
    # Validation sentences translated at that interval, from the start of the split; 0 = all.
    evaluate_sentences: int = 500
    # Checkpoints averaged for evaluate and translate, and kept (section 6.1: 5 base, 20 big).
    average_checkpoints: int = 5
    # Checkpoints kept besides those and the best: of each step that this divides; 0 = none.
    keep_every: int = 0
    # A step whose loss or gradient is not finite is skipped; after this many in a row it ends.
    max_skipped: int = 10
    # It ends, too, when the smoothed loss has been above this many times its best for that long.
    # 0 = never.
    divergence_factor: float = 3.0
    divergence_steps: int = 1000
    # From SIGTERM or Ctrl-C to the end of the process, at most; a cloud gives some 30 seconds.
    grace_seconds: float = 25.0
    tensorboard: bool = True


@dataclasses.dataclass
class DecodeConfig:
    """Translation (Vaswani et al. 2017, section 6.1)."""

    beam_size: int = 4
    length_penalty: float = 0.6
    # "gnmt": ((5 + len) / 6)^α, Wu et al. 2016; "power": len^α, Hugging Face and CTranslate2.
    length_penalty_form: str = "gnmt"
    # A translation has at most the source's tokens + this many.
    extra_length: int = 50
    # "beam", "greedy" or "sample".
    method: str = "beam"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    # Sentences translated at once.
    batch_size: int = 64


@dataclasses.dataclass
class ParallelConfig:
    """Which devices share the work."""

    # "auto": jit on one device, pmap on several, a mesh if fsdp or tensor is not 1. Or "single",
    # "pmap" (replicas) or "mesh" (jit; parameters sharded over fsdp and tensor, rows over data and
    # fsdp).
    strategy: str = "auto"
    # Sizes of the mesh; -1 = the rest of the devices.
    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass
class Config:
    """One experiment."""

    name: str = "experiment"
    # Translated at the end of training, to be read by a person; "" = nothing.
    demo: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


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


def flatten(config: Config) -> dict[str, Any]:
    """{"model.num_layers": 6, …}: every option by its dotted name."""

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        flat = {}
        for f in dataclasses.fields(node):
            value = getattr(node, f.name)
            inner = dataclasses.is_dataclass(value)
            name = f"{prefix}{f.name}"
            flat |= walk(value, name + ".") if inner else {name: value}
        return flat

    return walk(config, "")


def validate(config: Config) -> Config:
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


def nearest(name: str, known: list[str]) -> str:
    """ " (did you mean …?)" for the known name nearest to `name`, or "" when none is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def differences(saved: Config, now: Config) -> list[str]:
    """["model.d_ff: 512 in the workdir, 1024 now", …] for options whose values differ."""
    before, after = flatten(saved), flatten(now)
    return [
        f"{name}: {before[name]!r} in the workdir, {value!r} now"
        for name, value in after.items()
        if before[name] != value
    ]


def refuse_differences(workdir: Path, differing: list[str]) -> None:
    """Raises UserError, naming them, if there are differences between `workdir` and now."""
    if differing:
        raise UserError(
            f"{workdir} holds another experiment ({'; '.join(differing)}): "
            "choose another --workdir, or leave --config out, and its own options are used"
        )


def is_remote(path: Path) -> bool:
    """Whether `path` is in a bucket: see `storage.path`, which alone makes such paths."""
    return not isinstance(path, Path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all; text in UTF-8.

    Raises:
      UserError: if it cannot be written.
    """
    content = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(path.name + ".tmp")
    try:
        # In a bucket a file is whole whenever it is there. A pipe, or /dev/null, is not to be
        # replaced by a file.
        if is_remote(path) or (path.exists() and not path.is_file()):
            path.write_bytes(content)
            return
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # a new one: not what a link there leads to
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        no_bucket = is_remote(path) and isinstance(e, FileNotFoundError)
        reason = "there is no such bucket" if no_bucket else e.strerror or e
        raise UserError(f"cannot write {path}: {reason}") from None


def save(config: Config, path: Path) -> None:
    """Writes `config` as JSON."""
    text = json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False)
    write_whole(path, text + "\n")


def load(path: Path) -> Config:
    """Reads what `save` wrote; an option that the file lacks keeps its default.

    Raises:
      UserError: if the file is missing, is not JSON, or has an option that does not exist.
    """
    try:
        if not path.is_file() and path.exists():
            raise ValueError("it is not a file")
        saved = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is not a workdir (it has no {path.name}): train there first"
        ) from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is damaged: {e}") from None
    config = Config()
    _fill(config, saved, path)
    return config


def _fill(node: Any, saved: Any, path: Path) -> None:
    if not isinstance(saved, dict):
        raise UserError(f"{path} is damaged: {saved!r} is not a group of options")
    for name, value in saved.items():
        if not hasattr(node, name):
            raise UserError(f"{path} has an option that this version lacks: {name}")
        default = getattr(node, name)
        whole = type(default) is float and type(value) is int
        if dataclasses.is_dataclass(default):
            _fill(default, value, path)
        elif type(value) is type(default) or whole:
            setattr(node, name, type(default)(value))
        else:
            raise UserError(f"{path} is damaged: {name}={value!r} is not {_A[type(default)]}")


_A = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
