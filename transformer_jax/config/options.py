"""The configuration of one experiment: typed dataclasses, one default per option.

An experiment file returns a `Config`; any option is set from the command line as
`--config.model.num_layers=2` (ml_collections' config_flags reads the types here, so they are plain
int, float, bool and str). `validate` refuses what cannot work, naming both values.
"""

import dataclasses
from dataclasses import field
from typing import Any

# The same in every vocabulary, so that the model needs no tokenizer to know what padding is.
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
WEIGHTS = ("average", "latest", "best")  # which checkpoints to translate with


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


# Numbers to the step: traced, so that another value is the same program.
# training.step.Hyperparameters has each under the last part of its name.
TRACED = (
    *("seed", "optimizer.learning_rate_scale", "optimizer.warmup_steps"),
    *("optimizer.beta1", "optimizer.beta2", "optimizer.epsilon", "optimizer.clip_norm"),
    *("optimizer.label_smoothing", "model.dropout_rate", "model.attention_dropout_rate"),
)
# Of those, the ones whose 0 is "not at all": another program, without the operation.
NONE_IF_ZERO = ("optimizer.clip_norm", "model.dropout_rate", "model.attention_dropout_rate")


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
