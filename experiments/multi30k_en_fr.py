"""English → French image captions (Multi30k), by the recipe of `multi30k_en_de`, without tuning.

    python launch.py --config=experiments/multi30k_en_fr.py --config.data.path=DIR

DIR holds train.en, train.fr, valid.en, valid.fr, test2016.en, test2016.fr (Elliott et al. 2017).
"""

import transformer_jax as tj
from experiments import multi30k_en_de


def get_config() -> tj.Config:
    """As German, with the French side of the same captions."""
    config = multi30k_en_de.get_config()
    config.name = "multi30k_en_fr"
    config.data.target_language = "fr"
    config.data.train = "train.en,train.fr"
    config.data.valid = "valid.en,valid.fr"
    config.data.test = "test2016.en,test2016.fr"
    return config
