"""Chinese → English from 2,000 pairs, and 20,000 English sentences without a translation.

    python -m experiments.back_translation text                  # the small world writes the text
    python launch.py --config=experiments/back_translation.py:reverse --config.data.path=text
    python launch.py --mode=translate --workdir=runs/back_translation_reverse \
        --input=text/mono.en --output=text/mono.zh
    python launch.py --config=experiments/back_translation.py --config.data.path=text

The model of the other direction translates the English sentences, and the last command trains on
the 2,000 pairs and on these translations (Sennrich et al. 2016). :forward, instead of :reverse,
trains on the pairs alone, for comparison. docs/back_translation.md has the results, and the same
commands for your own text.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import transformer_jax as tj
from transformer_jax.data.small_world import grammar

# The tag begins each source that a model wrote (Caswell et al. 2019). There are ten times as many
# of them: with this weight, half of the pairs that are drawn are real, as in Sennrich et al. 2016.
_MIX = "train.zh,train.en weight=10; mono.zh,mono.en tag=>>bt<<"
_TRAIN = {"": _MIX, "forward": "train.zh,train.en", "reverse": "train.en,train.zh"}


def get_config(part: str = "") -> tj.Config:
    """The model trained on the mix, "reverse" or "forward"; all three have as many steps.

    Raises:
      tj.UserError: if there is no such part.
    """
    if part not in _TRAIN:
        raise tj.UserError(f"back_translation.py has no part {part!r}, only forward and reverse")
    source, target = ("en", "zh") if part == "reverse" else ("zh", "en")
    return tj.Config(
        name="_".join(filter(None, ("back_translation", part))),
        demo="I have a cat" if part == "reverse" else "我有一只猫",
        data=tj.DataConfig(
            corpus="files",
            source_language=source,
            target_language=target,
            train=_TRAIN[part],
            valid=f"valid.{source},valid.{target}",
            test=f"test.{source},test.{target}",
            vocab_size=1500,
            source_row_length=64 if part == "reverse" else 48,
            target_row_length=48 if part == "reverse" else 64,
            batch_rows=40,
        ),
        # As the quickstart's, but 2,000 pairs are few enough to learn by heart.
        model=tj.ModelConfig(num_layers=2, d_model=128, d_ff=512, num_heads=4, dropout_rate=0.1),
        optimizer=tj.OptimizerConfig(schedule="cosine", learning_rate_scale=2e-3, warmup_steps=100),
        train=tj.TrainConfig(
            steps=400,
            log_every=50,
            checkpoint_every=50,
            evaluate_every=100,
            evaluate_sentences=200,
            average_checkpoints=2,
        ),
    )


def write_text(
    folder: Path, *, pairs: int = 2000, alone: int = 20_000, held_out: int = 1000
) -> None:
    """Writes train, valid and test, .zh and .en, and mono.en: sentences that none of them has."""
    splits = {"train": pairs, "valid": held_out, "test": held_out}
    texts = {split: grammar.pairs(split, size=size) for split, size in splits.items()}
    known = {english for text in texts.values() for _, english in text}
    # A longer text begins with the shorter one, and several Chinese sentences share an English one.
    more = grammar.pairs("train", size=2 * (pairs + alone))[pairs:]
    mono = [english for english in dict.fromkeys(e for _, e in more) if english not in known]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "mono.en", mono[:alone])
    for split, text in texts.items():
        for side, language in enumerate(("zh", "en")):
            _write(folder / f"{split}.{language}", [pair[side] for pair in text])


def _write(file: Path, lines: Sequence[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    write_text(Path(sys.argv[1]))
