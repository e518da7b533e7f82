"""The paper's big model on WMT 2014 English → French (Vaswani et al. 2017, Table 2: BLEU 41.8).

    python launch.py --config=experiments/wmt14_en_fr_big.py --workdir=runs/wmt14_en_fr_big

As English → German, with the French corpus, its vocabulary, and less dropout.
"""

from typing import Any

import transformer_jax as tj
from experiments import wmt14_en_de_big


def get_config() -> tj.Config:
    """Big, with the French corpus and its vocabulary."""
    config = wmt14_en_de_big.get_config()
    config.name = "wmt14_en_fr_big"
    config.data.corpus = "tfds:wmt14_translate/fr-en"
    config.data.target_language = "fr"
    config.data.vocab_size = 32_000
    # Section 6.1: "The Transformer (big) model trained for English-to-French used dropout rate
    # P_drop = 0.1, instead of 0.3."
    config.model.dropout_rate = 0.1
    return config


def paper(name: str) -> dict[str, Any]:
    """Table 2's row, for --mode=report; see `command_line.load_paper`."""
    return {"row": "big, EN-FR", "test_bleu": 41.8, "flops": 2.3e19}
