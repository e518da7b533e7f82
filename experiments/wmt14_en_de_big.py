"""The paper's big model on WMT 2014 English → German (Vaswani et al. 2017, Table 2: BLEU 28.4).

    python launch.py --config=experiments/wmt14_en_de_big.py --workdir=runs/wmt14_en_de_big

What differs from base is written here; the paper trained it on 8 P100s for 3.5 days.
"""

from typing import Any

import transformer_jax as tj
from experiments import wmt14_en_de_base


def get_config() -> tj.Config:
    """The last row of Table 3."""
    config = wmt14_en_de_base.get_config()
    config.name = "wmt14_en_de_big"
    config.model.d_model = 1024
    config.model.d_ff = 4096
    config.model.num_heads = 16
    config.model.dropout_rate = 0.3
    config.train.steps = 300_000
    # Section 6.1: the last 20 checkpoints. A step took 1.0 s, so that 10 minutes were 600 steps.
    config.train.average_checkpoints = 20
    config.train.checkpoint_every = 600
    config.train.evaluate_every = 6000
    return config


def paper(name: str) -> dict[str, Any]:
    """Table 2's row, for --mode=report; see `command_line.load_paper`."""
    return {"row": "big, EN-DE", "test_bleu": 28.4, "flops": 2.3e19}
