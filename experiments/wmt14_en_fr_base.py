"""The paper's base model on WMT 2014 English → French (Vaswani et al. 2017, Table 2: BLEU 38.1).

    python launch.py --config=experiments/wmt14_en_fr_base.py --workdir=runs/wmt14_en_fr_base

36 million sentences and a vocabulary of 32,000 word pieces (section 5.1).
"""

from typing import Any

import transformer_jax as tj
from experiments import wmt14_en_de_base


def get_config() -> tj.Config:
    """Base, with the French corpus and its vocabulary."""
    config = wmt14_en_de_base.get_config()
    config.name = "wmt14_en_fr_base"
    config.data.corpus = "tfds:wmt14_translate/fr-en"
    config.data.target_language = "fr"
    config.data.vocab_size = 32_000
    return config


def paper(name: str) -> dict[str, Any]:
    """Table 2's row, for --mode=report; see `command_line.load_paper`."""
    return {"row": "base, EN-FR", "test_bleu": 38.1, "flops": 3.3e18}
