"""The rules that choose among candidates beside beam search: their scores, and what they cost.

python benchmarks/choice.py --workdir=runs/mine --reverse=runs/mine_reversed --split=valid
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import transformer_jax as tj
from transformer_jax.data import held_out
from transformer_jax.evaluation.scores import corpus_scores
from transformer_jax.inference.translator import first_best


def settings(flags: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The decode options of each row."""
    beam = {"method": "beam", "beam_size": flags.candidates}
    sample = {"method": "sample", "candidates": flags.candidates, "temperature": flags.temperature}
    yield {"method": "greedy"}
    yield beam | {"beam_size": 4}
    yield beam
    for found in (beam, sample):
        for utility in ("chrf", "bleu"):
            yield found | {"choose": "mbr", "utility": utility}
        for weight in flags.reverse_weights.split(",") if flags.reverse else ():
            yield found | {"choose": "reverse", "reverse_weight": float(weight)}


def name(decode: tj.DecodeConfig) -> str:
    """The row's name, such as "beam 16, mbr chrf"."""
    numbers = {"greedy": "", "beam": f" {decode.beam_size}", "sample": f" {decode.candidates}"}
    rules = {
        "model": "",
        "mbr": f", mbr {decode.utility}",
        "reverse": f", reverse λ={decode.reverse_weight:g}",
    }
    return f"{decode.method}{numbers[decode.method]}{rules[decode.choose]}"


def main() -> None:
    """Prints a row for each search and rule; of two runs the second is timed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--weights", default="average")
    parser.add_argument("--reverse", help="a workdir of the other direction")
    parser.add_argument("--reverse_weights", default="0.5,1", help="values of λ")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--sentences", type=int, default=200, help="the first ones of the split")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=1.0, help="of the samples")
    flags = parser.parse_args()
    model = tj.load(flags.workdir, weights=flags.weights)
    if flags.reverse:
        model = dataclasses.replace(model, reverse=tj.load(flags.reverse))
    corpus, _ = held_out.load_split(model.workdirs, model.config.data, flags.split)
    sources, references = zip(*corpus.pairs[: flags.sentences], strict=True)
    print(f"{len(sources)} sentences of {flags.split}, weights of steps {model.steps}")
    print(f"{'':26} {'BLEU':>12} {'chrF2++':>12}  sentences/s")
    for options in settings(flags):
        decode = dataclasses.replace(model.config.decode, **options)
        chooser = dataclasses.replace(
            model, config=dataclasses.replace(model.config, decode=decode)
        )
        for _ in range(2):
            start = time.perf_counter()
            found = first_best(chooser.hypotheses(sources))
            seconds = time.perf_counter() - start
        language = model.config.data.target_language
        scores = corpus_scores(found, references, target_language=language)
        bleu = f"{scores.bleu:.1f} ± {scores.bleu_interval:.1f}"
        chrf = f"{scores.chrf:.1f} ± {scores.chrf_interval:.1f}"
        rate = len(sources) / seconds
        print(f"{name(decode):26} {bleu:>12} {chrf:>12} {rate:12.1f}", flush=True)


if __name__ == "__main__":
    main()
