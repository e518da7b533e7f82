"""Training speed beside PyTorch's nn.Transformer, on the same pairs, in one run.

    pip install -r benchmarks/requirements.txt
    python benchmarks/train_step.py --data=DIR

DIR holds train.en and train.de (Multi30k). Three loops train the same architecture on batches of
the same number of pairs, in turn, round after round; because machines are noisy, the result is the
median of the ratios within a round. Speed counts real (non-padding) tokens, of both sides.

    random    PyTorch, random batches padded to their longest sentence: what tutorials do
    bucketed  PyTorch, batches of sentences of similar length
    packed    transformer_jax: several pairs in each row of fixed shape

The share of the arithmetic limit is the number of operations that the real tokens need (the matrix
products of forward and backward pass, counted from shapes), divided by what a large matrix product,
measured in every round, would compute in the same time.

All loops run with the allocator of the launcher, which keeps freed memory; with MALLOC_ARENA_MAX=0
in the environment all run with glibc's default.
"""

# ruff: noqa: E402  (the allocator is chosen before jax and torch start threads)
import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from transformer_jax.parallel import allocator

KEPT = allocator.keep_freed_memory()

import jax
import jax.numpy as jnp
import numpy as np
import torch

from transformer_jax.config.options import BOS_ID, PAD_ID, Config, ModelConfig
from transformer_jax.data import text as data_text
from transformer_jax.data.batches import PackedDataset
from transformer_jax.data.packing import plan_packing
from transformer_jax.data.tokenizer import train_tokenizers
from transformer_jax.data.tokens import TokenizedPairs, tokenize_pairs
from transformer_jax.functional.positions import sinusoidal_positions
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.step import create_state, make_train_step


@dataclasses.dataclass
class Loop:
    """One contestant.

    Attributes:
      name: its name in the report.
      step: trains on the next batch; returns the number of its real tokens and operations.
      finish: waits for the work in flight, which belongs to the time measured.
    """

    name: str
    step: Callable[[], tuple[int, float]]
    finish: Callable[[], object] = lambda: None


def operations(
    model: ModelConfig, vocab_size: int, source: np.ndarray, target: np.ndarray
) -> float:
    """The FLOPs that sentences of these lengths need, forward and backward."""
    d, f, layers = model.d_model, model.d_ff, model.decoder_depth
    encoder = model.encoder_depth * (4 * d * d + 2 * d * f) * source
    decoder = layers * (6 * d * d + 2 * d * f) * target + layers * 2 * d * d * source
    attention = 2 * d * model.encoder_depth * source**2
    attention = attention + 2 * d * layers * (target * source + target**2 / 2)
    return float(6 * np.sum(encoder + decoder + attention + d * vocab_size * target))


class TorchTransformer(torch.nn.Module):
    """nn.Transformer with tied embeddings and sinusoids, as in PyTorch's tutorials."""

    def __init__(self, model: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        d = model.d_model
        self.embedding = torch.nn.Embedding(vocab_size, d)
        torch.nn.init.normal_(self.embedding.weight, std=d**-0.5)
        table = np.array(sinusoidal_positions(jnp.arange(512), d))
        self.register_buffer("positions", torch.from_numpy(table))
        self.dropout = torch.nn.Dropout(model.dropout_rate)
        self.transformer = torch.nn.Transformer(
            d,
            model.num_heads,
            model.encoder_depth,
            model.decoder_depth,
            model.d_ff,
            model.dropout_rate,
            batch_first=True,
        )
        # The paper applies dropout to sub-layer outputs only. nn.Transformer also applies it to
        # attention weights and to the feed-forward's hidden units: more work than `packed` does.
        for layer in (*self.transformer.encoder.layers, *self.transformer.decoder.layers):
            layer.dropout = torch.nn.Identity()
            layer.self_attn.dropout = 0.0
            if hasattr(layer, "multihead_attn"):
                layer.multihead_attn.dropout = 0.0

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T] → [B, T, D]."""
        scaled = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return self.dropout(scaled + self.positions[: tokens.shape[1]])

    def forward(self, source: torch.Tensor, decoder_input: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V]."""
        padding, length = source == PAD_ID, decoder_input.shape[1]
        x = self.transformer(
            self.embed(source),
            self.embed(decoder_input),
            tgt_mask=torch.ones(length, length, dtype=torch.bool).triu(1),
            src_key_padding_mask=padding,
            tgt_key_padding_mask=decoder_input == PAD_ID,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return x @ self.embedding.weight.T


def torch_loop(
    name: str,
    config: Config,
    vocab_size: int,
    pairs: TokenizedPairs,
    batches: Iterator[np.ndarray],
) -> Loop:
    """The plain PyTorch loop over `batches` of pair numbers."""
    model = TorchTransformer(config.model, vocab_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-9)
    loss = torch.nn.CrossEntropyLoss(ignore_index=PAD_ID, label_smoothing=0.1)

    def step() -> tuple[int, float]:
        chosen = next(batches)
        source = _padded(pairs.source, pairs.source_offsets, chosen)
        labels = _padded(pairs.target, pairs.target_offsets, chosen)
        decoder_input = torch.roll(labels, 1, dims=1)
        decoder_input[:, 0] = BOS_ID
        decoder_input[labels == PAD_ID] = PAD_ID
        logits = model(source, decoder_input)
        value = loss(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        value.item()
        return _work(config, vocab_size, pairs, chosen)

    return Loop(name, step)


def _padded(tokens: np.ndarray, offsets: np.ndarray, chosen: np.ndarray) -> torch.Tensor:
    rows = [torch.from_numpy(tokens[offsets[i] : offsets[i + 1]].astype(np.int64)) for i in chosen]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD_ID)


def _work(
    config: Config, vocab_size: int, pairs: TokenizedPairs, chosen: np.ndarray
) -> tuple[int, float]:
    source, target = pairs.source_lengths[chosen], pairs.target_lengths[chosen]
    return int(source.sum() + target.sum()), operations(config.model, vocab_size, source, target)


def random_batches(number: int, size: int) -> Iterator[np.ndarray]:
    """Pairs in random order."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(number)
        yield from (order[i : i + size] for i in range(0, number - size, size))


def bucketed_batches(lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Pairs of similar length together, the batches in random order."""
    rng = np.random.default_rng(0)
    while True:
        order = np.lexsort((rng.random(len(lengths)), lengths))
        starts = rng.permutation(np.arange(0, len(lengths) - size, size))
        yield from (order[i : i + size] for i in starts)


def jax_loop(config: Config, vocab_size: int, data: PackedDataset) -> Loop:
    """This project's training step, with metrics read one step late, as in its loop."""
    model = Transformer(config.model, vocab_size)
    train_step = jax.jit(make_train_step(config, model), donate_argnums=0)
    held = {"state": create_state(config, model), "step": 0, "metrics": None}

    def step() -> tuple[int, float]:
        number = held["step"]
        chosen = np.concatenate(data.batch_pairs(number))
        held["state"], metrics = train_step(held["state"], data.batch(number))
        if held["metrics"] is not None:
            float(held["metrics"]["loss"])
        held["metrics"], held["step"] = metrics, number + 1
        return _work(config, vocab_size, data.pairs, chosen)

    return Loop("packed", step, lambda: jax.block_until_ready(held))


def matmul_peak() -> float:
    """The FLOP/s of a 1024² float32 matrix product, by JAX or PyTorch, whichever is faster."""
    a = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    product = jax.jit(jnp.matmul)
    x, t = jnp.asarray(a), torch.from_numpy(a)
    product(x, x).block_until_ready()
    best = math.inf
    for run in (lambda: product(x, x).block_until_ready(), lambda: t @ t):
        for _ in range(10):
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def measure(loop: Loop, steps: int) -> tuple[float, float]:
    """Trains some steps; returns real tokens per second and operations per second."""
    start = time.perf_counter()
    work = [loop.step() for _ in range(steps)]
    loop.finish()
    seconds = time.perf_counter() - start
    return sum(w[0] for w in work) / seconds, sum(w[1] for w in work) / seconds


def report(names: list[str], rates: np.ndarray, shares: np.ndarray, padding: dict) -> None:
    """Prints the medians over rounds; rates and shares are [rounds, loops]."""
    print(f"\n{'loop':10}  {'real tokens/s':>13}  {'of the arithmetic limit':>23}  {'padding':>8}")
    for i, name in enumerate(names):
        rate, share = np.median(rates[:, i]), np.median(shares[:, i])
        print(f"{name:10}  {rate:13,.0f}  {100 * share:21.0f} %  {100 * padding[name]:6.1f} %")
    for i, name in enumerate(names[:-1]):
        ratios = sorted(rates[:, -1] / rates[:, i])
        print(
            f"packed / {name}: {statistics.median(ratios):.2f} "
            f"(rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def padding_of(batches: Iterator[np.ndarray], pairs: TokenizedPairs) -> float:
    """The share of positions that are padding, over 50 batches padded to their longest."""
    real = total = 0
    for _, chosen in zip(range(50), batches, strict=False):
        for lengths in (pairs.source_lengths[chosen], pairs.target_lengths[chosen]):
            real, total = real + lengths.sum(), total + lengths.max() * len(lengths)
    return 1 - real / total


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder with train.en and train.de")
    parser.add_argument("--vocab_size", type=int, default=8000)
    parser.add_argument("--d_model", type=int, default=256)
    parser.add_argument("--d_ff", type=int, default=1024)
    parser.add_argument("--num_layers", type=int, default=3)
    parser.add_argument("--num_heads", type=int, default=4)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--row_lengths", default="62,64", help="source,target")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="steps of each loop in each round")
    return parser.parse_args()


def load_data(flags: argparse.Namespace) -> PackedDataset:
    """The pairs, tokenised and packed."""
    source_row, target_row = map(int, flags.row_lengths.split(","))
    sides = [data_text.read_lines(Path(flags.data) / f"train.{side}") for side in ("en", "de")]
    text = list(zip(*sides, strict=True))
    tokenizers = train_tokenizers(text, vocab_size=flags.vocab_size, shared=True)
    pairs = tokenize_pairs(text, tokenizers)
    plan = plan_packing(
        pairs.source_lengths,
        pairs.target_lengths,
        source_row_length=source_row,
        target_row_length=target_row,
    )
    return PackedDataset(pairs, plan, batch_rows=flags.rows, seed=0)


def main() -> None:
    """Runs the benchmark."""
    flags = parse_flags()
    model = ModelConfig(
        num_layers=flags.num_layers,
        d_model=flags.d_model,
        d_ff=flags.d_ff,
        num_heads=flags.num_heads,
    )
    config, data = Config(model=model), load_data(flags)
    pairs, size = data.pairs, round(len(data.plan.pairs) / data.plan.rows * flags.rows)
    lengths = pairs.source_lengths + pairs.target_lengths
    makers = {
        "random": lambda: random_batches(len(pairs), size),
        "bucketed": lambda: bucketed_batches(lengths, size),
    }
    padding = {name: padding_of(make(), pairs) for name, make in makers.items()}
    padding["packed"] = 1 - data.real_share
    loops = [torch_loop(n, config, flags.vocab_size, pairs, make()) for n, make in makers.items()]
    loops.append(jax_loop(config, flags.vocab_size, data))
    print(
        f"{size} pairs a batch; d_model {flags.d_model}, {flags.num_layers}+{flags.num_layers} "
        f"layers, d_ff {flags.d_ff}, {flags.vocab_size} pieces; jax {jax.__version__}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads, "
        f"{'freed memory kept' if KEPT else 'the default allocator'}"
    )
    rates, shares = [], []
    for loop in loops:
        measure(loop, 2)  # compiles, warms up
    for number in range(flags.rounds):
        peak = matmul_peak()
        measured = [measure(loop, flags.steps) for loop in loops]
        rates.append([rate for rate, _ in measured])
        shares.append([speed / peak for _, speed in measured])
        print(f"round {number}: " + "  ".join(f"{r:,.0f}" for r in rates[-1]), flush=True)
    report([loop.name for loop in loops], np.array(rates), np.array(shares), padding)


if __name__ == "__main__":
    main()
