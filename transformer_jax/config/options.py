"""The configuration of an experiment: typed dataclasses, one default per option.

An experiment file returns a `Config`, and --config.model.num_layers=2 sets one of its options.
ml_collections' config_flags reads the types of the fields, so they are plain int, float, bool and
str. All else that is known about an option is metadata on its field: see `metadata.Option`. After a
change, run `python -m transformer_jax.config.documentation`, which writes docs/options.md.
"""

import dataclasses
import operator
from typing import Any

from transformer_jax.config.metadata import RATE, Change, option, options_of, section
from transformer_jax.config.model_options import ModelConfig
from transformer_jax.errors import nearest

# The same in every vocabulary, so that the model needs no tokenizer to recognise padding.
PAD_ID, UNK_ID, BOS_ID, EOS_ID = range(4)
WEIGHTS = ("average", "latest", "best")  # which checkpoints to translate with

NEVER, AFTER_TRAINING, ON_RESUME, ANY_TIME = Change


@dataclasses.dataclass
class DataConfig:
    """Where text comes from, and how it becomes rows of tokens."""

    corpus: str = option(
        "small_world",
        '"small_world", "hsk", "files", or "tfds:NAME", as in "tfds:wmt14_translate/de-en".',
    )
    # The languages decide how BLEU counts. Reversed, they are another text, which a run recognises.
    source_language: str = option("zh", "Language to translate.", may_change=ON_RESUME)
    target_language: str = option("en", "Language to translate to.", may_change=ON_RESUME)
    path: str = option(
        "",
        "Folder that relative names of files start from; empty = the current one.",
        may_change=ANY_TIME,
        is_path=True,
    )
    train: str = option(
        "",
        'Training text. For "files": "a.en,a.de" (source first) or "pairs.tsv", with double quotes '
        "around a name that has a comma; or several corpora, with weights and tags: "
        '"news.en,news.de; med.tsv weight=2 tag=>>med<<; tfds:ted_hrlr_translate/ru_to_en". For '
        '"tfds": the name of a split; the other corpora ignore it.',
        are_paths=True,
    )
    valid: str = option(
        "", "Validation text, likewise; empty = held out of the training text.", are_paths=True
    )
    test: str = option(
        "", "Test text, likewise; empty = held out of the training text.", are_paths=True
    )
    mixing_temperature: float = option(
        1.0,
        "Of several corpora, one is drawn with a probability proportional to weight · pairs^(1 / "
        "temperature): 1 = by weight and size, more = small ones more often; 0 = by weight alone.",
        above=0,
        also=0,
    )
    train_size: int = option(
        0, "Training pairs to generate (small_world; 0 = 60,000) or keep (0 = all).", at_least=0
    )
    held_out_size: int = option(
        1000, "Pairs held out of training for each of valid and test that is empty.", at_least=0
    )
    vocab_size: int = option(
        8000,
        "Pieces in a vocabulary. 256 of them are bytes, so that no text is unknown.",
        above=0,
        may_change=NEVER,
    )
    shared_vocabulary: bool = option(
        True,
        "One vocabulary for both languages, as in the paper; otherwise one of vocab_size for each.",
        may_change=NEVER,
    )
    normalization: str = option(
        "nfc",
        'How a new tokenizer normalises text. "nfc": text that looks alike has the same pieces '
        "(NFC, one kind of space, no invisible characters); a tokenizer that exists keeps its own.",
        choices=("nfc", "none"),
        may_change=NEVER,
    )
    subword_dropout: float = option(
        0.0,
        "Rate of BPE-dropout: in training, other pieces of the same text in each epoch (Provilkov "
        "et al. 2020 use 0.1); 0 = the same pieces.",
        at_least=0,
        below=1,
    )
    source_row_length: int = option(
        64, "Source tokens in a packed row. Longer pairs are left out, and counted.", above=0
    )
    target_row_length: int = option(64, "Target tokens in a packed row.", above=0)
    batch_rows: int = option(64, "Rows in a global batch, on any number of devices.", above=0)


@dataclasses.dataclass
class OptimizerConfig:
    """Adam and its schedule (Vaswani et al. 2017, section 5.3)."""

    schedule: str = option(
        "inverse_sqrt",
        '"inverse_sqrt": scale · d_model^-0.5 · min(step^-0.5, step · warmup_steps^-1.5), as in '
        'the paper; "cosine": linear to scale over warmup_steps, then to 0 at train.steps.',
        choices=("inverse_sqrt", "cosine"),
    )
    learning_rate_scale: float = option(1.0, "Scale of the schedule.", above=0, traced=True)
    warmup_steps: int = option(4000, "Steps until the learning rate peaks.", above=0, traced=True)
    beta1: float = option(0.9, "Decay of the mean of the gradients.", **RATE)
    beta2: float = option(0.98, "Decay of the mean of their squares.", **RATE)
    epsilon: float = option(1e-9, "Adam's epsilon.", above=0, traced=True)
    clip_norm: float = option(
        0.0,
        "Largest global norm of the gradient; 0 = no clipping, as in the paper.",
        at_least=0,
        traced=True,
        none_if_zero=True,
    )
    weight_decay: float = option(
        0.0,
        "Share of each matrix that is taken off per step, times the learning rate (AdamW, "
        "Loshchilov & Hutter 2019); 0 = none, as in the paper.",
        at_least=0,
        traced=True,
        none_if_zero=True,
    )
    label_smoothing: float = option(0.1, "Label smoothing (section 5.4).", **RATE)


@dataclasses.dataclass
class TrainConfig:
    """The training loop."""

    steps: int = option(
        100_000,
        "Steps to train. To raise it stretches what is left of a cosine schedule.",
        above=0,
        may_change=ON_RESUME,
    )
    start_from: str = option(
        "",
        "Workdir, trained or imported, whose weights and tokenizer a new run begins with; its "
        "architecture and vocabulary replace those of the experiment. Empty = random weights.",
        may_move=True,  # The first checkpoint replaces it.
        is_path=True,
    )
    start_weights: str = option("average", "Which weights of start_from.", choices=WEIGHTS)
    frozen: str = option(
        "",
        'Parameters that stay as they are: a regular expression, as in "encoder|embedding", that '
        "is found in their path (--mode=describe lists the paths); empty = none.",
    )
    accumulate: int = option(1, "Micro-batches of a global batch, to save memory.", above=0)
    rng: str = option(
        "threefry",
        'Random numbers of dropout. "threefry": the same on any devices; "rbg": faster on TPUs, '
        "but dependent on how many devices and micro-batches share the rows.",
        choices=("threefry", "rbg"),
    )
    log_every: int = option(50, "Steps between logged metrics.", above=0, may_change=ANY_TIME)
    r_drop: float = option(
        0.0,
        "α of R-Drop (Liang et al. 2021, who use 5 for translation): each step predicts twice "
        "with different dropout, and the two predictions are drawn together; 0 = once.",
        at_least=0,
        traced=True,
        none_if_zero=True,
    )
    checkpoint_every: int = option(1000, "Steps between checkpoints.", above=0)
    evaluate_every: int = option(
        5000,
        "Steps between validations (loss and greedy BLEU), a multiple of checkpoint_every; "
        "0 = never.",
        at_least=0,
        may_change=ON_RESUME,
    )
    evaluate_sentences: int = option(
        500,
        "Sentences of the validation text to translate at each validation; 0 = all.",
        at_least=0,
        may_change=ON_RESUME,
    )
    patience: int = option(
        0,
        "Validations in a row with neither a higher BLEU nor a lower loss than all before them "
        "that end the training; 0 = train.steps alone ends it.",
        at_least=0,
        may_change=ON_RESUME,
    )
    average_checkpoints: int = option(
        5,
        "Checkpoints to keep, and to average for translation (section 6.1: 5 base, 20 big).",
        above=0,
    )
    choose_average: bool = option(
        False,
        "At the end of training, validate the averages of the last 1 to average_checkpoints "
        "checkpoints and of those around the best one, and use the one of the highest BLEU. Keeps "
        "the checkpoints around the best one, too.",
        may_change=ON_RESUME,
    )
    keep_every: int = option(
        0,
        "Checkpoints of steps that it divides are kept, too, such as early ones to look inside; "
        "0 = none.",
        at_least=0,
        may_change=ON_RESUME,
    )
    max_skipped: int = option(
        10,
        "Skipped steps in a row that stop the training. A step is skipped when its loss or its "
        "gradient is not finite.",
        above=0,
        may_change=ON_RESUME,
    )
    divergence_factor: float = option(
        3.0,
        "Training stops when the smoothed loss has been above this many times its best for "
        "divergence_steps; 0 = never.",
        above=1,
        also=0,
        may_change=ON_RESUME,
    )
    divergence_steps: int = option(1000, "See divergence_factor.", above=0, may_change=ON_RESUME)
    grace_seconds: float = option(
        25.0,
        "Longest time from SIGTERM or Ctrl-C to the process's end; clouds give some 30 seconds.",
        above=0,
        may_change=ANY_TIME,
    )
    tensorboard: bool = option(True, "Write metrics for TensorBoard, too.", may_change=ANY_TIME)


@dataclasses.dataclass
class DecodeConfig:
    """Translation (Vaswani et al. 2017, section 6.1)."""

    beam_size: int = option(4, "Hypotheses that beam search keeps.", above=0)
    length_penalty: float = option(0.6, "α of the length penalty; 0 = none.")
    length_penalty_form: str = option(
        "gnmt",
        '"gnmt": ((5 + length) / 6)^α, Wu et al. 2016; "power": length^α, as in Hugging Face and '
        "CTranslate2.",
        choices=("gnmt", "power"),
    )
    extra_length: int = option(
        50, "How many tokens a translation may be longer than its source.", at_least=0
    )
    target_token: str = option(
        "",
        'Language to write, as ">>fra<<", for sources that begin with no such code; only for '
        "models that read them.",
    )
    max_length: int = option(
        0,
        "Most pieces of a translation, whose last one is then <eos>; 0 = extra_length decides.",
        at_least=0,
    )
    no_repeat_ngram_size: int = option(
        0, "No n pieces in a row are generated twice; 0 = any may be.", at_least=0
    )
    repetition_penalty: float = option(
        1.0,
        "Times or by which the score of a generated piece is made worse (Keskar et al. 2019); "
        "1 = not at all.",
        above=0,
    )
    forbidden_ids: str = option(
        "",
        'Sequences of piece ids that are never generated: "5, 6 7" forbids piece 5, and piece 7 '
        "after piece 6.",
    )
    first_id: int = option(
        0,
        "Id of the piece that every translation begins with; 0 = any piece.",
        at_least=EOS_ID,
        also=0,
    )
    method: str = option("beam", "Search for a translation.", choices=("beam", "greedy", "sample"))
    temperature: float = option(1.0, "sample: divides the logits.", above=0)
    top_k: int = option(0, "sample: draw from the k likeliest tokens; 0 = all.", at_least=0)
    top_p: float = option(
        1.0,
        "sample: draw from the likeliest tokens whose probabilities sum to this.",
        above=0,
        at_most=1,
    )
    choose: str = option(
        "model",
        'What picks a translation among the candidates: "model": the score of the search; "mbr": '
        "minimum Bayes risk, the candidate most like the others by utility (Kumar & Byrne 2004); "
        '"reverse": with the probability that a model of the other direction, --reverse, gives the '
        "source (Yee et al. 2019).",
        choices=("model", "mbr", "reverse"),
    )
    candidates: int = option(
        16, "mbr, reverse: samples to choose among; of a beam, all beam_size.", at_least=2
    )
    utility: str = option(
        "chrf", "mbr: what makes translations alike, by sentence.", choices=("chrf", "bleu")
    )
    reverse_weight: float = option(
        1.0, "reverse: λ in log p(y|x) / |y| + λ log p(x|y) / |x|.", at_least=0
    )
    batch_size: int = option(64, "Sentences to translate at once.", above=0)


@dataclasses.dataclass
class ParallelConfig:
    """Which devices share the work."""

    strategy: str = option(
        "auto",
        '"single": jit on one device; "pmap": replicas; "mesh": jit, with parameters sharded over '
        'fsdp and tensor, and rows over data and fsdp; "auto": the first that suffices.',
        choices=("auto", "single", "pmap", "mesh"),
    )
    data: int = option(-1, "Size of a mesh's data axis; -1 = the rest.", above=0, also=-1)
    fsdp: int = option(1, "Size of a mesh's fsdp axis; -1 = the rest.", above=0, also=-1)
    tensor: int = option(1, "Size of a mesh's tensor axis; -1 = the rest.", above=0, also=-1)


@dataclasses.dataclass
class Config:
    """One experiment."""

    name: str = option("experiment", "Name of the experiment.", may_change=ANY_TIME)
    demo: str = option(
        "", "Sentence to translate at the end of training; empty = none.", may_change=ANY_TIME
    )
    seed: int = option(
        0,
        "Seed of the initialisation, the order of the text, dropout and sampling.",
        at_least=0,
        below=2**32,
        traced=True,
        may_change=AFTER_TRAINING,
    )
    data: DataConfig = section(DataConfig, may_change=AFTER_TRAINING)
    model: ModelConfig = section(ModelConfig, may_change=NEVER)
    optimizer: OptimizerConfig = section(OptimizerConfig, may_change=AFTER_TRAINING)
    train: TrainConfig = section(TrainConfig, may_change=AFTER_TRAINING)
    decode: DecodeConfig = section(DecodeConfig, may_change=ON_RESUME)
    parallel: ParallelConfig = section(ParallelConfig, may_change=ANY_TIME)


# By dotted name: "model.num_layers".
OPTIONS = {known.name: known for known in options_of(Config)}


def flatten(config: Config) -> dict[str, Any]:
    """{"model.num_layers": 6, …}: the value of every option, by its dotted name."""
    return {name: operator.attrgetter(name)(config) for name in OPTIONS}


def set_option(config: Config, name: str, value: Any) -> None:
    """Sets an option of `config` by its dotted name.

    Raises:
      UserError: if `value` is not of the option's type.
    """
    group, _, last = name.rpartition(".")
    node = operator.attrgetter(group)(config) if group else config
    setattr(node, last, OPTIONS[name].converted(value))


def nearest_option(name: str) -> str:
    """ " (did you mean …?)": the option of that last name in another section, or the nearest."""
    last = name.rpartition(".")[2]
    elsewhere = [known for known in OPTIONS if known.rpartition(".")[2] == last]
    return f" (did you mean {elsewhere[0]}?)" if elsewhere else nearest(name, list(OPTIONS))
