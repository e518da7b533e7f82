"""Time and memory of the data of a training, by stages: of synthetic pairs, or of files.

Each stage runs in a process of its own, and what it leaves is in --folder, outside the checkout:

python benchmarks/data.py --folder=/data/scale --pairs=1000000
python benchmarks/data.py --folder=/data/scale --train=a.en,a.de --stages=read,tokenize,plan

"MB" is the peak resident memory of the process; "B / pair" is what it grew by in the stage.
"""

import argparse
import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np

from transformer_jax.config.model_options import ModelConfig
from transformer_jax.config.options import Config, DataConfig, TrainConfig
from transformer_jax.data import corpora
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.packing import PackingPlan, plan_packing
from transformer_jax.data.text import read_lines
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizers
from transformer_jax.data.tokens import TokenizedPairs, read_tokens, tokenize_pairs

_STAGES = [
    *("text", "read", "tokenizer", "tokenize", "plan", "deal", "batches"),
    *("train", "start"),
]
_BLOCK = 10_000  # pairs generated at a time
_LEARNED = 100_000  # pairs that the tokenizer is trained on
_TOKENS = "tokens"


def text(flags: argparse.Namespace) -> int:
    """Writes pairs of 19 words a side on average, drawn from 50,000 words by Zipf's law."""
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("a"), ord("z") + 1, (50_000, 9), np.uint8)
    words = [bytes(w[: 2 + n % 8]).decode() for n, w in enumerate(letters)]
    with (flags.folder / "a.en").open("w") as source, (flags.folder / "a.de").open("w") as target:
        for start in range(0, flags.pairs, _BLOCK):
            count = min(_BLOCK, flags.pairs - start)
            common, *own = rng.standard_normal((3, count))
            for file, noise in zip((source, target), own, strict=True):
                lengths = np.exp(2.8 + 0.5 * (0.9 * common + 0.43 * noise)).astype(int) + 1
                drawn = iter((rng.zipf(1.2, lengths.sum()) % len(words)).tolist())
                for length in lengths.tolist():
                    line = (words[word] for word in itertools.islice(drawn, length))
                    file.write(" ".join(line) + "\n")
    return flags.pairs


def read(flags: argparse.Namespace) -> int:
    """Reads the text and holds pairs out, as training does."""
    return len(corpora.load_split(_config(flags).data, "train").pairs)


def _config(flags: argparse.Namespace) -> Config:
    source, target = map(int, flags.row_lengths.split(","))
    names = flags.train or f"{flags.folder / 'a.en'},{flags.folder / 'a.de'}"
    return Config(
        data=DataConfig(
            corpus="files",
            train=names,
            held_out_size=100,
            vocab_size=flags.vocab_size,
            batch_rows=4,
            source_row_length=source,
            target_row_length=target,
        ),
        model=ModelConfig(d_model=32, num_heads=2, d_ff=64, num_layers=1),
        train=TrainConfig(checkpoint_every=10, evaluate_every=0, tensorboard=False),
    )


def _lines(flags: argparse.Namespace) -> Iterator[tuple[str, str]]:
    if flags.train:
        return zip(*(read_lines(Path(name)) for name in flags.train.split(",")), strict=True)
    files = [(flags.folder / name).open() for name in ("a.en", "a.de")]
    return zip(*(map(str.rstrip, file) for file in files), strict=True)


def tokenizer(flags: argparse.Namespace) -> int:
    """Trains the tokenizer on the first pairs."""
    pairs = list(itertools.islice(_lines(flags), _LEARNED))
    train_tokenizers(pairs, vocab_size=flags.vocab_size, shared=True).save(flags.folder)
    return len(pairs)


def tokenize(flags: argparse.Namespace) -> int:
    """Encodes the text, line by line, into files."""
    tokenizers = Tokenizers.load(flags.folder)
    return len(tokenize_pairs(_lines(flags), tokenizers, flags.folder, name=_TOKENS))


def _planned(flags: argparse.Namespace) -> tuple[TokenizedPairs, PackingPlan]:
    tokens = read_tokens(flags.folder / _TOKENS)
    source, target = map(int, flags.row_lengths.split(","))
    lengths = tokens.source_lengths, tokens.target_lengths
    return tokens, plan_packing(*lengths, source_row_length=source, target_row_length=target)


def plan(flags: argparse.Namespace) -> int:
    """Verifies the cached tokens and plans the packing: what a start with cached tokens does."""
    tokens, packing = _planned(flags)
    source, target = tokens.source_lengths.mean(), tokens.target_lengths.mean()
    share = PackedDataset(tokens, packing, batch_rows=1, seed=0).real_share
    print(f"  {source:.1f} source and {target:.1f} target tokens a pair; {packing.rows:,} rows")
    print(f"  {100 * share:.1f} % of positions real, {packing.too_long:,} pairs too long")
    return len(tokens)


def deal(flags: argparse.Namespace) -> int:
    """The stage before, and one epoch."""
    tokens, packing = _planned(flags)
    packing.epoch(seed=0, epoch=1)
    return len(tokens)


def batches(flags: argparse.Namespace) -> int:
    """The stage before, and 300 batches of 64 rows from all over the text."""
    tokens, packing = _planned(flags)
    data = PackedDataset(tokens, packing, batch_rows=64, seed=0)
    data.batch(0)
    start = time.perf_counter()
    for step in range(1, 301):
        data.batch(step)
    print(f"  {1e3 * (time.perf_counter() - start) / 300:.2f} ms a batch")
    return len(tokens)


def train(flags: argparse.Namespace) -> int:
    """All of this at once: ten steps of a tiny model, from the files on."""
    return _train(flags, steps=10)


def start(flags: argparse.Namespace) -> int:
    """A start with cached tokens, and ten more steps."""
    return _train(flags, steps=20)


def _train(flags: argparse.Namespace, steps: int) -> int:
    from transformer_jax.training import run as training  # jax would be in every stage's memory

    config, workdir = _config(flags), flags.folder / "run"
    config.train.steps = steps
    training.train(config, workdir)
    tokens = max(workdir.glob("tokens/*/source_offsets.npy"), key=lambda path: path.stat().st_size)
    return len(np.load(tokens, mmap_mode="r")) - 1


def _peak() -> int:
    """Bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Runs one stage, or each of several in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", required=True, type=Path, help="for what the stages leave")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="synthetic pairs")
    parser.add_argument("--train", default="", help="two files, source first, instead of those")
    parser.add_argument("--vocab_size", type=int, default=8000)
    parser.add_argument("--row_lengths", default="124,128", help="positions per row: source,target")
    parser.add_argument("--stages", default=",".join(_STAGES))
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    stages = flags.stages.split(",")
    if len(stages) == 1:
        before, start, processor = _peak(), time.perf_counter(), time.process_time()
        pairs = globals()[stages[0]](flags)
        processor, wall = time.process_time() - processor, time.perf_counter() - start
        print(
            f"{stages[0]:10} {wall:7.1f} s, {processor:7.1f} s of processor time, "
            f"{1e6 * processor / pairs:6.2f} µs / pair; {_peak() / 1e6:6.0f} MB, "
            f"{(_peak() - before) / pairs:5.0f} B / pair",
            flush=True,
        )
        return
    for stage in stages:
        if stage != "text" or not flags.train:
            subprocess.run([sys.executable, *sys.argv, f"--stages={stage}"], check=True)


if __name__ == "__main__":
    main()
