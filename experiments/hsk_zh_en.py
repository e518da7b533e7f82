"""Chinese → English textbook sentences (HSK) that a Python package ships.

    make real

3,700 pairs and 5,000 words with their glosses (hsk-sentences-audio, data CC BY-SA 4.0). That is
enough to run the whole path on real text and far too little to learn to translate: expect a BLEU of
a few points. Pairs that share a sentence stay on one side of the split.
"""

import transformer_jax as tj


def get_config() -> tj.Config:
    """Small and heavily regularised, for a training set this small."""
    return tj.Config(
        name="hsk_zh_en",
        demo="我有一只猫。",
        data=tj.DataConfig(
            corpus="hsk",
            source_language="zh",
            target_language="en",
            held_out_size=300,
            # 1,800 of them are Chinese characters.
            vocab_size=5000,
            source_row_length=56,
            target_row_length=64,
            batch_rows=16,
        ),
        model=tj.ModelConfig(num_layers=3, d_model=160, d_ff=480, num_heads=4, dropout_rate=0.4),
        optimizer=tj.OptimizerConfig(
            schedule="cosine", learning_rate_scale=1.5e-3, warmup_steps=300
        ),
        train=tj.TrainConfig(
            steps=2500,
            log_every=100,
            checkpoint_every=100,
            evaluate_every=500,
            evaluate_sentences=0,
            average_checkpoints=5,
        ),
        decode=tj.DecodeConfig(beam_size=4, length_penalty=0.6),
    )
