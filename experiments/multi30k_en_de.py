"""English → German image captions (Multi30k): a real translator from 29,000 sentences.

    python launch.py --config=experiments/multi30k_en_de.py --config.data.path=DIR

DIR holds train.en, train.de, valid.en, valid.de, test2016.en, test2016.de (Elliott et al. 2016).
The size is that of the "tiny" Transformer of Wu et al. 2021 ("Good for Misconceived Reasons"),
which found that larger ones overfit these captions. Its sweep compares two vocabularies:

    python launch.py --mode=sweep --config=experiments/multi30k_en_de.py --config.data.path=DIR
"""

from typing import Any

import transformer_jax as tj


def get_config() -> tj.Config:
    """Tiny: an hour and a half on one CPU core."""
    return tj.Config(
        name="multi30k_en_de",
        demo="A man is riding a bicycle down the street.",
        data=tj.DataConfig(
            corpus="files",
            source_language="en",
            target_language="de",
            train="train.en,train.de",
            valid="valid.en,valid.de",
            test="test2016.en,test2016.de",
            # With 4,000 pieces, whole words are rarer, and validation BLEU is 2.6 lower at step
            # 3,000; 12,000 are no better (docs/results.md).
            vocab_size=8000,
            # English needs a little fewer pieces than German: rows of 62 and 64 fill up together.
            source_row_length=62,
            target_row_length=64,
            # About 2,000 target tokens: many small steps learn faster here than few large ones.
            batch_rows=32,
        ),
        model=tj.ModelConfig(
            num_layers=4,
            d_model=128,
            d_ff=256,
            num_heads=4,
            # The paper normalises after the residual. At this dropout and learning rate such a
            # model stays a language model for thousands of steps before it attends to the source;
            # one that normalises before it does so in 500 (docs/results.md).
            norm="pre",
            dropout_rate=0.3,
        ),
        optimizer=tj.OptimizerConfig(schedule="cosine", learning_rate_scale=3e-3, warmup_steps=800),
        train=tj.TrainConfig(
            steps=10000,
            log_every=100,
            checkpoint_every=250,
            evaluate_every=500,
            evaluate_sentences=0,
            average_checkpoints=10,
            choose_average=True,
        ),
        decode=tj.DecodeConfig(beam_size=4, length_penalty=0.6),
    )


def sweep() -> list[dict[str, Any]]:
    """Two vocabularies, with two seeds each: compare their BLEU, since losses are per piece."""
    return tj.grid({"data.vocab_size": [4000, 8000], "seed": [0, 1]})
