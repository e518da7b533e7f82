"""Training speed of the paper's base and big models on one accelerator, against a matmul ceiling.

    python benchmarks/gpu.py                 # base and big, bfloat16, packed rows of 256
    python benchmarks/gpu.py --toy           # a toy size, which shows that the script runs

For each model and attention ("xla"; "cudnn" on a GPU) the rows of a batch grow until the memory is
full. Batches are synthetic: each row holds three pairs, and 95 % of its positions are real, as in
packed text. Model FLOPs are counted from shapes (`transformer_jax/model/size.py`); MFU is their
share of the speed of a large bfloat16 matrix product, measured in the same run. The script prints a
line of JSON for each combination, then a table.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments import wmt14_en_de_base, wmt14_en_de_big
from transformer_jax.config.options import BOS_ID, EOS_ID, Config
from transformer_jax.data.packing import pack
from transformer_jax.data.tokens import TokenizedPairs
from transformer_jax.model import size as model_size
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel.devices import choose_devices
from transformer_jax.training.step import create_state, make_train_step

WARM_UP, MEASURED = 3, 10


def matmul_ceiling(size: int) -> float:
    """The FLOP/s of a product of two bfloat16 matrices, the fastest of five."""
    x = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    product(x, x).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        y = x
        for _ in range(10):
            y = product(y, x)
        y.block_until_ready()
        seconds.append((time.perf_counter() - start) / 10)
    return 2 * size**3 / min(seconds)


def synthetic_batch(config: Config) -> dict[str, np.ndarray]:
    """Rows of three pairs that fill 95 % of their positions."""
    data, rng = config.data, np.random.default_rng(0)
    lengths = [int(0.95 * n / 3) for n in (data.source_row_length, data.target_row_length)]
    pairs = 3 * data.batch_rows
    sides = [rng.integers(4, data.vocab_size, (pairs, n)).astype(np.int32) for n in lengths]
    for side in sides:
        side[:, -1] = EOS_ID
    offsets = [np.arange(pairs + 1) * n for n in lengths]
    tokens = TokenizedPairs(*(side.ravel() for side in sides), *offsets)
    batch = pack(
        tokens,
        np.arange(pairs).reshape(-1, 3),
        source_row_length=data.source_row_length,
        target_row_length=data.target_row_length,
    )
    assert (batch["decoder_input"] == BOS_ID).sum() == pairs
    return batch | {"row": np.arange(data.batch_rows, dtype=np.int32)}


def measure(config: Config, ceiling: float) -> dict[str, object]:
    """Trains some steps; returns the median seconds of one, tokens/s and MFU."""
    data = config.data
    config.parallel.strategy = "single"  # the ceiling is that of one device
    devices = choose_devices(config)
    model = Transformer(config.model, data.vocab_size)
    state = devices.to_step(devices.create_state(lambda: create_state(config, model)))
    step = devices.compile_step(partial(make_train_step, config, model))
    host = synthetic_batch(config)
    batch = devices.put_batch(host)
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        start = time.perf_counter()
        state, metrics = step(state, batch)
        loss = float(metrics["loss"])
        seconds.append(time.perf_counter() - start)
    assert np.isfinite(loss)
    second = statistics.median(seconds[WARM_UP:])
    real = int((host["source_segments"] > 0).sum() + (host["target_segments"] > 0).sum())
    needed, _ = model_size.step_flops(config)
    return {
        "model": config.name,
        "attention": config.model.attention,
        "rows": data.batch_rows,
        "tokens_per_second": real / second,
        "seconds_per_step": second,
        "mfu": needed / second / ceiling,
    }


def toy(config: Config) -> Config:
    """The same experiment, small enough for any machine."""
    small = {"num_layers": 1, "d_model": 32, "d_ff": 64, "num_heads": 2}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, vocab_size=997),
        model=dataclasses.replace(config.model, **small),
    )


def sweep(config: Config, ceiling: float, rows: list[int]) -> Iterator[dict[str, object]]:
    """Yields a result for each number of rows, until the memory is full."""
    for number in rows:
        config.data.batch_rows = number
        try:
            yield measure(config, ceiling)
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            print(f"{config.name}, {number} rows: out of memory", file=sys.stderr)
            return


def main() -> None:
    """Prints a line of JSON for each combination, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="use a toy size")
    parser.add_argument("--row_length", type=int, default=256)
    arguments = parser.parse_args()
    device = jax.devices()[0]
    ceiling = matmul_ceiling(256 if arguments.toy else 8192)
    print(f"{device.device_kind}: {ceiling / 1e12:.2f} TFLOP/s in a bfloat16 matmul")
    attentions = ["xla", "cudnn"] if device.platform == "gpu" else ["xla"]
    results = []
    for module in (wmt14_en_de_base, wmt14_en_de_big):
        for attention in attentions:
            config = module.get_config()
            config.model.attention = attention
            config.model.compute_dtype = "bfloat16"
            config.data.source_row_length = config.data.target_row_length = arguments.row_length
            config = toy(config) if arguments.toy else config
            for result in sweep(
                config, ceiling, [2, 4] if arguments.toy else [16 << n for n in range(10)]
            ):
                print(json.dumps(result))
                results.append(result)
    print("\n| model | attention | rows | tokens/s | MFU |\n|---|---|---|---|---|")
    for r in results:
        cells = r["model"], r["attention"], r["rows"], f"{r['tokens_per_second']:,.0f}"
        print(f"| {' | '.join(map(str, cells))} | {100 * r['mfu']:.1f} % |")


if __name__ == "__main__":
    main()
