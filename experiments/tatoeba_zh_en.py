"""Chinese → English everyday sentences (Tatoeba, CC BY 2.0 FR): 22,000 pairs.

    python launch.py --config=experiments/tatoeba_zh_en.py --config.data.path=DIR

DIR holds train.zh, train.en, valid.zh, valid.en, test.zh, test.en.
"""

from transformer_jax.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def get_config() -> Config:
    """As Multi30k's, for shorter sentences."""
    return Config(
        name="tatoeba_zh_en",
        demo="我有一只猫。",
        data=DataConfig(
            corpus="files",
            source_language="zh",
            target_language="en",
            train="train.zh,train.en",
            valid="valid.zh,valid.en",
            test="test.zh,test.en",
            # 3,000 Chinese characters take most of them.
            vocab_size=8000,
            source_row_length=60,
            target_row_length=64,
            batch_rows=48,
        ),
        model=ModelConfig(num_layers=3, d_model=192, d_ff=512, num_heads=4, dropout_rate=0.3),
        optimizer=OptimizerConfig(schedule="cosine", learning_rate_scale=2e-3, warmup_steps=400),
        train=TrainConfig(
            steps=2500,
            log_every=50,
            checkpoint_every=100,
            evaluate_every=500,
            evaluate_sentences=300,
            average_checkpoints=5,
        ),
    )
