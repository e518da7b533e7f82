"""The base model on WMT Chinese → English, from local files. Not in the paper.

    python launch.py --config=experiments/wmt_zh_en_base.py --config.data.path=DIR

DIR holds train.zh, train.en (UN, news commentary, CWMT: some 20 million pairs), valid.zh, valid.en
(newsdev2017), test.zh, test.en (newstest2017). From files, because TensorFlow Datasets' zh-en
source points at a server that is gone.
"""

import transformer_jax as tj
from experiments import wmt14_en_de_base


def get_config() -> tj.Config:
    """Base, with a source that has thousands of characters."""
    config = wmt14_en_de_base.get_config()
    config.name = "wmt_zh_en_base"
    config.demo = "我有一只猫。"
    config.data.corpus = "files"
    config.data.source_language = "zh"
    config.data.target_language = "en"
    config.data.train = "train.zh,train.en"
    config.data.valid = "valid.zh,valid.en"
    config.data.test = "test.zh,test.en"
    # More than 37,000, because some 8,000 pieces are single Chinese characters.
    config.data.vocab_size = 45_000
    return config
