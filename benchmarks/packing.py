"""The time it takes to tokenise a corpus and to plan an epoch, and how full the rows are.

python benchmarks/packing.py --train=a.en,a.de --vocab_size=8000 --row_lengths=124,128
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from transformer_jax.config.options import DataConfig
from transformer_jax.console import progress_bar
from transformer_jax.data import corpora
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.packing import plan_packing
from transformer_jax.data.tokenizer import train_tokenizers
from transformer_jax.data.tokens import tokenize_pairs


def main() -> None:
    """Prints the seconds of each part and the share of real positions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", required=True, help="training files: a.en,a.de or pairs.tsv")
    parser.add_argument("--vocab_size", type=int, default=8000)
    parser.add_argument("--row_lengths", default="124,128", help="positions per row: source,target")
    flags = parser.parse_args()
    data = DataConfig(corpus="files", train=flags.train, valid=flags.train, test=flags.train)
    source_row, target_row = map(int, flags.row_lengths.split(","))

    clock = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        print(f"{what:32} {now - clock:6.1f} s", flush=True)
        clock = now

    pairs = corpora.load_split(data, "train").pairs
    lap(f"read {len(pairs):,} pairs")
    tokenizers = train_tokenizers(pairs, vocab_size=flags.vocab_size, shared=True)
    lap(f"train {flags.vocab_size:,} pieces")
    with progress_bar(len(pairs), "tokenising") as bar:
        tokens = tokenize_pairs(pairs, tokenizers, progress=bar.update)
    lap("tokenise")
    plan = plan_packing(
        tokens.source_lengths,
        tokens.target_lengths,
        source_row_length=source_row,
        target_row_length=target_row,
    )
    lap("plan the packing")
    plan.epoch(seed=0, epoch=1)
    lap("deal one epoch")
    packed = PackedDataset(tokens, plan, batch_rows=1, seed=0)
    source, target = tokens.source_lengths.mean(), tokens.target_lengths.mean()
    print(f"{source:.1f} source and {target:.1f} target tokens a pair")
    print(f"{100 * packed.real_share:.1f} % of positions real, {plan.too_long:,} pairs too long")


if __name__ == "__main__":
    main()
