"""Chinese → English everyday sentences (Tatoeba, CC BY 2.0 FR): 22,000 pairs.

    python launch.py --config=experiments/tatoeba_zh_en.py --config.data.path=DIR

DIR holds train.zh, train.en, valid.zh, valid.en, test.zh, test.en.
"""

import transformer_jax as tj


def get_config() -> tj.Config:
    """As Multi30k's, for shorter sentences."""
    return tj.Config(
        name="tatoeba_zh_en",
        demo="我有一只猫。",
        data=tj.DataConfig(
            corpus="files",
            source_language="zh",
            target_language="en",
            train="train.zh,train.en",
            valid="valid.zh,valid.en",
            test="test.zh,test.en",
            # 2,600 of them are Chinese characters.
            vocab_size=6000,
            source_row_length=52,
            target_row_length=64,
            batch_rows=24,
        ),
        # With the norm before the residual, as Multi30k's.
        model=tj.ModelConfig(
            num_layers=4, d_model=128, d_ff=256, num_heads=4, norm="pre", dropout_rate=0.3
        ),
        optimizer=tj.OptimizerConfig(schedule="cosine", learning_rate_scale=3e-3, warmup_steps=800),
        train=tj.TrainConfig(
            steps=6000,
            log_every=100,
            checkpoint_every=250,
            evaluate_every=500,
            evaluate_sentences=0,
            average_checkpoints=10,
            choose_average=True,
        ),
    )
