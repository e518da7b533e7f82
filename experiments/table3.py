"""Every row of Table 3 of "Attention Is All You Need": what each choice of the model is worth.

    python launch.py --config=experiments/table3.py --sweep_index=3
    python launch.py --mode=evaluate --split=valid --weights=latest --workdir=runs/table3_A_heads_16

A point of the sweep is a row, in the order of the table; it is named after what the row changes,
and so is its workdir. The second line gives the row's BLEU as the paper took it: on the validation
set, newstest2013, by beam search, without averaging checkpoints (section 6.2). The row's perplexity
is e to the power of the last validation loss; it compares only where the pieces are the same.

The laptop scale is the same table on Multi30k (experiments/multi30k_en_de.py says what DIR holds),
with a quarter of each width, half the layers, as many heads, and 1,000 steps. Each row has two
seeds, and the whole table with the first one comes before the second one:

    python launch.py --mode=sweep --config=experiments/table3.py:laptop --workdir=runs/table3 \
      --sweep_workers=2 --config.data.path=DIR

A point takes minutes on two cores, the widest and big longer. It keeps the name of its row:
table3_laptop_C_layers_2_seed_0 has two of the paper's six layers, which here is one of three. This
scale shows that every row trains, translates and is scored, and which way size moves the loss of a
short run. It cannot confirm the paper's findings: most of its rows lie less than one BLEU apart,
which is no more than another seed or another thousand sentences make, and four epochs (big: twelve)
are too few for the overfitting that dropout is there to prevent.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import transformer_jax as tj
from experiments import multi30k_en_de, wmt14_en_de_base, wmt14_en_de_big


class Row(NamedTuple):
    """A row of Table 3: what it changes in the base model, and what the paper printed."""

    label: str
    overrides: dict[str, Any]
    perplexity: float  # per piece, newstest2013
    bleu: float  # newstest2013
    millions: int | None = None  # of parameters; printed where they differ from base


def _heads(heads: int, width: int) -> dict[str, Any]:
    return {"model.num_heads": heads, "model.d_key": width, "model.d_value": width}


def _width(d_model: int, width: int) -> dict[str, Any]:
    return {"model.d_model": d_model, "model.d_key": width, "model.d_value": width}


_BIG = {
    "model.d_model": 1024,
    "model.d_ff": 4096,
    "model.num_heads": 16,
    "model.dropout_rate": 0.3,
    # As in wmt14_en_de_big.py.
    "train.steps": 300_000,
    "train.average_checkpoints": 20,
    "train.checkpoint_every": 600,
    "train.evaluate_every": 6000,
}

# The order is part of the contract: --sweep_index picks from it.
TABLE = (
    Row("base", {}, 4.92, 25.8, 65),
    # (A) heads, at the same amount of computation.
    Row("A_heads_1", _heads(1, 512), 5.29, 24.9),
    Row("A_heads_4", _heads(4, 128), 5.00, 25.5),
    Row("A_heads_16", _heads(16, 32), 4.91, 25.8),
    Row("A_heads_32", _heads(32, 16), 5.01, 25.4),
    # (B) the width of queries and keys; values keep theirs.
    Row("B_d_key_16", {"model.d_key": 16}, 5.16, 25.1, 58),
    Row("B_d_key_32", {"model.d_key": 32}, 5.01, 25.4, 60),
    # (C) size.
    Row("C_layers_2", {"model.num_layers": 2}, 6.11, 23.7, 36),
    Row("C_layers_4", {"model.num_layers": 4}, 5.19, 25.3, 50),
    Row("C_layers_8", {"model.num_layers": 8}, 4.88, 25.5, 80),
    Row("C_d_model_256", _width(256, 32), 5.75, 24.5, 28),
    Row("C_d_model_1024", _width(1024, 128), 4.66, 26.0, 168),
    Row("C_d_ff_1024", {"model.d_ff": 1024}, 5.12, 25.4, 53),
    Row("C_d_ff_4096", {"model.d_ff": 4096}, 4.75, 26.2, 90),
    # (D) regularisation.
    Row("D_dropout_0.0", {"model.dropout_rate": 0.0}, 5.77, 24.6),
    Row("D_dropout_0.2", {"model.dropout_rate": 0.2}, 4.95, 25.5),
    Row("D_smoothing_0.0", {"optimizer.label_smoothing": 0.0}, 4.67, 25.3),
    Row("D_smoothing_0.2", {"optimizer.label_smoothing": 0.2}, 5.47, 25.7),
    # (E) learned positions instead of sinusoids.
    Row("E_learned_positions", {"model.positions": "learned"}, 4.92, 25.7),
    Row("big", _BIG, 4.33, 26.4, 213),
)

# What the laptop scale divides, in the base model and in every row; the rest is as it was.
_LAPTOP_DIVISORS = {
    "model.num_layers": 2,
    "model.d_model": 4,
    "model.d_ff": 4,
    "model.d_key": 4,
    "model.d_value": 4,
    "train.steps": 100,
    # A short run needs a larger share of it to warm up, and fewer interruptions.
    "optimizer.warmup_steps": 10,
    "train.checkpoint_every": 50,
    "train.evaluate_every": 10,
}

_LAPTOP_SEEDS = (0, 1)

# Table 2 has two of the rows, too: BLEU on newstest2014, and the training's FLOPs.
_TABLE_2 = {
    "base": wmt14_en_de_base.paper("wmt14_en_de_base"),
    "big": wmt14_en_de_big.paper("wmt14_en_de_big"),
}


def get_config(scale: str = "") -> tj.Config:
    """The first row: the paper's base model, or with "laptop" a small one on Multi30k.

    Raises:
      tj.UserError: if there is no such scale.
    """
    config = wmt14_en_de_base.get_config()
    config.name = "table3"
    if not scale:
        return config
    if scale != "laptop":
        raise tj.UserError(f"table3.py has no scale {scale!r}: write table3.py or table3.py:laptop")
    small = multi30k_en_de.get_config()
    small.data.vocab_size = 4000  # as in the published report
    config.name, config.demo, config.data = "table3_laptop", small.demo, small.data
    for name, divisor in _LAPTOP_DIVISORS.items():
        section, option = name.split(".")
        options = getattr(config, section)
        setattr(options, option, getattr(options, option) // divisor)
    # Its peak is then about that of multi30k_en_de.py; as in the paper, it falls with d_model.
    config.optimizer.learning_rate_scale = 0.5
    config.train.log_every = 10
    return config


def sweep(scale: str = "") -> Iterator[dict[str, Any]]:
    """The overrides of each row of TABLE, in its order; of the laptop scale with each seed.

    {"name": "table3_A_heads_1", "model.num_heads": 1, "model.d_key": 512, "model.d_value": 512}
    """
    divisors = _LAPTOP_DIVISORS if scale else {}
    rows = []
    for row in TABLE:
        scaled = {
            option: value // divisors[option] if option in divisors else value
            for option, value in row.overrides.items()
        }
        rows.append({"name": row.label, **scaled})
    points = (
        tj.chain(*(tj.grid(rows, {"seed": [seed]}) for seed in _LAPTOP_SEEDS)) if scale else rows
    )
    yield from tj.named(points, prefix=get_config(scale).name)


def paper(name: str) -> dict[str, Any] | None:
    """What the paper printed of the row that a point of either scale is named after.

    Of the laptop scale's points too: the numbers are those of the row at the paper's own size.
    """
    label = re.sub(r"^table3_(laptop_)?|_seed_\d+$", "", name)
    for row in TABLE:
        if row.label == label:
            ours = {"perplexity": row.perplexity, "bleu": row.bleu, "millions": row.millions}
            return {**_TABLE_2.get(label, {}), "row": label, **ours}
    return None
