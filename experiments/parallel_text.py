"""Anyone's two files: line k of one is the translation of line k of the other.

    python launch.py --config=experiments/parallel_text.py --workdir=runs/mine \
        --config.data.train=a.en,a.de \
        --config.data.source_language=en --config.data.target_language=de

One file of "source<TAB>target" lines does too (--config.data.train=pairs.tsv). Without
--config.data.valid and --config.data.test, 1,000 pairs are held out for each. The sizes suit some
tens of thousands of sentences; with millions, see wmt14_en_de_base.py.
"""

import transformer_jax as tj


def get_config() -> tj.Config:
    """A small model that learns from little text."""
    return tj.Config(
        name="parallel_text",
        data=tj.DataConfig(
            corpus="files",
            # For sacrebleu's tokenizer: it matters when the target is Chinese or Japanese.
            source_language="source",
            target_language="target",
            vocab_size=4000,
            source_row_length=96,
            target_row_length=96,
            batch_rows=48,
        ),
        model=tj.ModelConfig(num_layers=4, d_model=128, d_ff=256, num_heads=4, dropout_rate=0.3),
        optimizer=tj.OptimizerConfig(schedule="cosine", learning_rate_scale=3e-3, warmup_steps=600),
        train=tj.TrainConfig(steps=5000, checkpoint_every=250, evaluate_every=500),
    )
