"""Chinese → English on the embedded small world: five minutes on two CPU cores.

    python launch.py

A grammar writes the sentences, so there is no end of them, and a model this small can learn all
there is to know. It is for seeing a Transformer work, not for translating a newspaper.
"""

from typing import Any

import transformer_jax as tj


def get_config() -> tj.Config:
    """The default experiment."""
    return tj.Config(
        name="quickstart",
        demo="我有一只猫",
        data=tj.DataConfig(
            corpus="small_world",
            source_language="zh",
            target_language="en",
            train_size=60_000,
            # Some 300 Chinese characters and 580 English words; 256 pieces are bytes.
            vocab_size=1500,
            # Chinese needs fewer pieces than English: 48 and 64 fill up together.
            source_row_length=48,
            target_row_length=64,
            batch_rows=40,
        ),
        # No dropout: the grammar writes more than such a model can learn by heart.
        model=tj.ModelConfig(num_layers=2, d_model=128, d_ff=512, num_heads=4, dropout_rate=0.0),
        # A run this short ends before the paper's inverse square root has cooled down.
        optimizer=tj.OptimizerConfig(schedule="cosine", learning_rate_scale=2e-3, warmup_steps=100),
        train=tj.TrainConfig(
            steps=800,
            log_every=50,
            checkpoint_every=100,
            keep_every=100,  # all of them: --mode=inside shows how the model learns
            evaluate_every=400,
            evaluate_sentences=200,
            average_checkpoints=2,
        ),
        decode=tj.DecodeConfig(beam_size=4),
    )


def sweep() -> list[dict[str, Any]]:
    """Four learning rates, with two seeds each."""
    rates = [5e-4, 1e-3, 2e-3, 4e-3]
    return tj.grid({"optimizer.learning_rate_scale": rates, "seed": [0, 1]})
