"""The time from a sentence to the numbers of its page (--mode=inside), once the server has started.

python benchmarks/inside.py --workdir=runs/quickstart            # that model
python benchmarks/inside.py --workdir=runs/quickstart --base     # the paper's base, random weights
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).parent.parent))

import transformer_jax as tj
from transformer_jax.inside.answers import Answers, Question
from transformer_jax.model.transformer import Transformer


def with_base(model: tj.Model) -> tj.Model:
    """An untrained base model of the same vocabulary."""
    transformer = Transformer(tj.ModelConfig(), model.tokenizers.target.vocab_size)
    tokens = jnp.ones((1, 1), jnp.int32)
    params = transformer.init(jax.random.key(0), tokens, tokens)["params"]
    config = dataclasses.replace(model.config, model=transformer.config)
    return dataclasses.replace(
        model, config=config, transformers=(transformer,), all_params=(params,)
    )


def main() -> None:
    """Prints the median and the slowest of several sentences, in seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--base", action="store_true")
    flags = parser.parse_args()
    model = tj.load(flags.workdir)
    answers = Answers(with_base(model) if flags.base else model)
    seconds, layers = [], []
    for sentence in answers.examples():
        for _ in range(2):  # the first of a length compiles
            start = time.perf_counter()
            found = answers.inside(Question(sentence))
            size = len(json.dumps(found))
            last = time.perf_counter() - start
        seconds.append(last)
        start = time.perf_counter()
        layer_size = len(json.dumps(answers.layer(found["id"], "decoder_0")))
        layers.append(time.perf_counter() - start)
    for name, times, of in (("sentence", seconds, size), ("layer", layers, layer_size)):
        middle, slowest = statistics.median(times), max(times)
        print(f"{name}: {middle:.3f} s (slowest of {len(times)} {slowest:.3f} s), {of:,} bytes")


if __name__ == "__main__":
    main()
