"""The paper's base model on WMT 2014 English → German (Vaswani et al. 2017, Table 2: BLEU 27.3).

    python launch.py --config=experiments/wmt14_en_de_base.py --workdir=runs/wmt14_en_de_base

The values are the paper's. Its 27.3 is compound-split tokenised BLEU; sacreBLEU on the same output
reads roughly 0.7 to 1.0 lower. It trained on 8 P100s for 12 hours. Needs `tensorflow-datasets`,
which downloads the corpus; no TensorFlow.
"""

from typing import Any

import transformer_jax as tj


def get_config() -> tj.Config:
    """Sections 3 and 5 and the first row of Table 3."""
    return tj.Config(
        name="wmt14_en_de_base",
        demo="I have a cat.",
        data=tj.DataConfig(
            corpus="tfds:wmt14_translate/de-en",
            source_language="en",
            target_language="de",
            # Shared, section 5.1.
            vocab_size=37_000,
            source_row_length=128,
            target_row_length=128,
            # 208 · 128 = 26,624 positions a side, at 95 % real tokens the paper's "approximately
            # 25000 source tokens and 25000 target tokens" (section 5.1); 16 devices divide it.
            batch_rows=208,
        ),
        model=tj.ModelConfig(
            num_layers=6,
            d_model=512,
            d_ff=2048,
            num_heads=8,
            dropout_rate=0.1,
        ),
        optimizer=tj.OptimizerConfig(
            schedule="inverse_sqrt",
            warmup_steps=4000,
            beta1=0.9,
            beta2=0.98,
            epsilon=1e-9,
            label_smoothing=0.1,
        ),
        train=tj.TrainConfig(
            steps=100_000,
            # The paper averages the last 5 checkpoints, written every 10 minutes: on its machines
            # (0.4 s a step) that was every 1,500 steps.
            checkpoint_every=1500,
            average_checkpoints=5,
            evaluate_every=4500,
        ),
        decode=tj.DecodeConfig(beam_size=4, length_penalty=0.6, extra_length=50),
    )


def paper(name: str) -> dict[str, Any]:
    """Table 2's row, for --mode=report; see `command_line.load_paper`."""
    return {"row": "base, EN-DE", "test_bleu": 27.3, "flops": 3.3e18}
