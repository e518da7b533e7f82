"""Translation speed beside CTranslate2 and Hugging Face, on the same weights, in one run.

    pip install -r benchmarks/requirements.txt
    python benchmarks/decode.py --workdir=runs/quickstart --workdir=runs/multi30k --base=paper

Each workdir is exported by the code of `--mode=export`, and its test sentences are translated by
this project, by CTranslate2 in float32 with all threads in one batch (ct2) and with one thread in
each of several (ct2 side), in int8 (ct2 int8), and by Hugging Face Marian's generate() (hf), in
turn, round after round: from text to text, in batches of sentences of like lengths. Batch is how
many rows one has; ours has two batches at a time on a CPU. All Marian models have the norm after
the residual, so a model with norm="pre" has no hf.

Each peer has a process of its own, which waits while others translate. In one process their thread
pools count as more threads than there are cores, and OpenMP then puts them to sleep at each step:
CTranslate2 took 794 ms in place of 450 beside a second model of itself.

`--base=paper` adds the paper's base model with 32,000 pieces, which is not trained: its weights are
random, with a softmax as sharp as a trained one's, and a row of <eos> that lets translations end.
It reads the last workdir's sentences.

`--lines=3,33` instead compares what so many lines cost with the next power of two of them.

`--device=gpu` computes on a GPU in half precision: ours in bfloat16, CTranslate2 in float16 and
int8_float16, Hugging Face in float16.

Because machines are noisy, a speed-up is the median of the ratios within a round, with the smallest
and the largest. All searches rank by log-probability / length^0.6. CTranslate2 stops when as many
translations have ended as there are beams, and ours when no better one can follow: some differ.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import ctranslate2
import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))

import transformer_jax as tj
from transformer_jax.config.options import EOS_ID
from transformer_jax.data import held_out
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers
from transformer_jax.functional.positions import sinusoidal_positions
from transformer_jax.interop.formats import export_model
from transformer_jax.model.transformer import Transformer

LENGTH_PENALTY, MOST_PIECES = 0.6, 96
SHARPNESS = 6.0  # then a piece of the best translation costs 0.65 nats; of trained ones, 0.5
OURS = {"cpu": "float32", "gpu": "bfloat16"}
FULL, INTEGERS = {"cpu": "float32", "gpu": "float16"}, {"cpu": "int8", "gpu": "int8_float16"}
# By name: the precision on each device, and whether each thread has a batch of its own.
CT2 = {"ct2": (FULL, False), "ct2 side": (FULL, True), "ct2 int8": (INTEGERS, False)}
PEERS = (*CT2, "hf")
SIZES = {"paper": {}, "toy": {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_layers": 1}}
Translate = Callable[[Sequence[str], int, int], list[str]]  # sentences, batch, beam


class Subject(NamedTuple):
    """A model to translate with, and what it translates."""

    name: str
    model: tj.Model
    sentences: list[str]


def from_workdir(workdir: str, compute_dtype: str) -> Subject:
    """A trained model and its test sentences."""
    model = tj.load(workdir)
    module_config = dataclasses.replace(model.config.model, compute_dtype=compute_dtype)
    config = dataclasses.replace(model.config, model=module_config)
    module = model.transformer.clone(config=module_config)
    model = dataclasses.replace(model, config=config, transformers=(module,))
    corpus, _ = held_out.load_split(model.workdirs, model.config.data, "test")
    return Subject(model.config.name, model, [source for source, _ in corpus.pairs])


def base(other: Subject, options: dict[str, Any], pieces: int, length: int) -> Subject:
    """An untrained base model, which reads the pieces of another one, and fillers besides.

    Its softmax has a table of its own, as sharp as that of a trained model: with the embeddings as
    its table the model would repeat a piece for ever, sure of it, and no search could stop early.
    <eos> becomes the most probable piece as a position grows more like `length` than like 0; the
    other pieces of a hypothesis move its end, so that translations have mixed lengths.
    """
    tokenizer = other.model.tokenizers.source
    fillers = (f"▁{number}" for number in range(pieces - tokenizer.vocab_size))
    side = Tokenizer(tokenizer.model, [*tokenizer.vocabulary, *fillers])
    config = tj.ModelConfig(**options, tied_embeddings="source_target")
    module = Transformer(config, side.vocab_size)
    tokens = jnp.ones((1, 1), jnp.int32)
    params = module.init(jax.random.key(0), tokens, tokens)["params"]
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 0.3 if path[-1].key in ("output_kernel", "w2") else x, params
    )
    first, last = sinusoidal_positions(jnp.array([0, length]), config.d_model)
    params |= {"softmax": (params["softmax"] * SHARPNESS).at[EOS_ID].set(last - first)}
    config = dataclasses.replace(other.model.config, model=config)
    parts = {"config": config, "transformers": (module,), "all_params": (params,)}
    model = dataclasses.replace(other.model, tokenizers=Tokenizers(side, side), **parts)
    return Subject("base", model, other.sentences)


def as_marian(model: tj.Model) -> tj.Model:
    """The same model in Marian's conventions: the width in another order, and its epsilon, 1e-5."""
    width = model.transformer.config.d_model
    order = [*range(0, width, 2), *range(1, width, 2)]  # all sines, then all cosines
    axes = dict.fromkeys(("query_kernel", "key_kernel", "value_kernel", "w1"), 0)

    def reorder(path: tuple, x: jax.Array) -> jax.Array:
        name = path[-1].key
        if name in ("b1", "query_bias", "key_bias", "value_bias", "logits_bias"):
            return x
        return jnp.take(x, jnp.array(order), axis=axes.get(name, -1))

    options = {"sinusoid_layout": "halves", "layer_norm_epsilon": 1e-5}
    module_config = dataclasses.replace(model.config.model, **options)
    config = dataclasses.replace(model.config, model=module_config)
    params = jax.tree_util.tree_map_with_path(reorder, model.params)
    module = model.transformer.clone(config=module_config)
    return dataclasses.replace(model, config=config, transformers=(module,), all_params=(params,))


def ours(model: tj.Model) -> Translate:
    """This project."""

    @functools.cache
    def searching(batch: int, beam: int) -> tj.Model:
        decode = dataclasses.replace(
            model.config.decode,
            method="beam" if beam > 1 else "greedy",
            beam_size=beam,
            batch_size=batch,
            length_penalty=LENGTH_PENALTY,
            length_penalty_form="power",
        )
        return dataclasses.replace(model, config=dataclasses.replace(model.config, decode=decode))

    return lambda sentences, batch, beam: searching(batch, beam).translate(list(sentences))


def ct2(folder: Path, on: dict[str, Any]) -> Translate:
    """CTranslate2, called as `transformer_jax/interop/ctranslate2.py` documents."""
    translator = ctranslate2.Translator(str(folder), **on)
    sides = [
        sentencepiece.SentencePieceProcessor(f"{folder}/{s}.spm") for s in ("source", "target")
    ]

    def translate(sentences: Sequence[str], batch: int, beam: int) -> list[str]:
        found = translator.translate_batch(
            sides[0].encode(list(sentences), out_type=str),
            max_batch_size=batch,
            beam_size=beam,
            length_penalty=LENGTH_PENALTY,
            suppress_sequences=[["<pad>"], ["<s>"]],
            disable_unk=True,
            max_decoding_length=MOST_PIECES,
        )
        return [sides[1].decode(result.hypotheses[0]) for result in found]

    return translate


def hugging_face(folder: Path, device: str, threads: int) -> Translate:
    """Hugging Face's Marian, whose generation_config.json our export wrote."""
    torch.set_num_threads(threads)
    model = transformers.MarianMTModel.from_pretrained(folder).eval().to(device)
    model = model.half() if device == "cuda" else model
    tokenizer = transformers.MarianTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def translate(sentences: Sequence[str], batch: int, beam: int) -> list[str]:
        options = {"num_beams": beam, "max_length": MOST_PIECES + 1}
        options |= {"length_penalty": LENGTH_PENALTY} if beam > 1 else {"early_stopping": False}
        order = sorted(range(len(sentences)), key=lambda n: len(sentences[n]))
        results = [""] * len(sentences)
        for start in range(0, len(order), batch):
            numbers = order[start : start + batch]
            given = tokenizer([sentences[n] for n in numbers], return_tensors="pt", padding=True)
            found = model.generate(**given.to(device), **options)
            texts = tokenizer.batch_decode(found, skip_special_tokens=True)
            for number, text in zip(numbers, texts, strict=True):
                results[number] = text
        return results

    return translate


_translate: Translate  # of a process of its own


def _begin(make: Callable[..., Translate], how: tuple) -> None:
    global _translate
    _translate = make(*how)


def _run(sentences: Sequence[str], batch: int, beam: int) -> list[str]:
    return _translate(sentences, batch, beam)


def elsewhere(stack: contextlib.ExitStack, make: Callable[..., Translate], *how: Any) -> Translate:
    """What `make(*how)` translates with, in a process of its own, which ends with `stack`."""
    options = {"initializer": _begin, "initargs": (make, how)}
    context = multiprocessing.get_context("spawn")
    pool = stack.enter_context(ProcessPoolExecutor(1, mp_context=context, **options))
    return lambda *given: pool.submit(_run, *given).result()


HEAD = ["model", "batch", "beam", "our sentences/s", *(f"ours / {p}" for p in PEERS), "same texts"]


def measure(
    programs: dict[str, Translate], sentences: Sequence[str], batch: int, beam: int, rounds: int
) -> tuple[np.ndarray, dict[str, int]]:
    """Translates with every program in turn, once to warm up and then `rounds` times.

    Returns the seconds [rounds, programs], and how many texts of each peer are ours.
    """
    # SentencePiece leaves the ▁ of the base model's fillers, which it does not know, in the text.
    plain = lambda text: text.replace("▁", " ").strip()  # noqa: E731
    given = list(sentences), batch, beam
    texts = {name: [*map(plain, translate(*given))] for name, translate in programs.items()}
    seconds = np.zeros((rounds, len(programs)))
    for number, (place, translate) in itertools.product(
        range(rounds), enumerate(programs.values())
    ):
        start = time.perf_counter()
        translate(*given)
        seconds[number, place] = time.perf_counter() - start
    ours, *peers = texts.values()
    same = [sum(map(str.__eq__, ours, found)) for found in peers]
    return seconds, dict(zip(PEERS, same, strict=False))


def spread(ratios: np.ndarray) -> str:
    """Their median, smallest and largest."""
    return f"**{np.median(ratios):.2f}×** ({np.min(ratios):.2f} to {np.max(ratios):.2f})"


def cells(seconds: np.ndarray, agree: dict[str, int], count: int) -> list[str]:
    """Speed, speed-ups and agreement as they stand in the table."""
    ratios = seconds[:, 1:] / seconds[:, :1]
    return [
        f"{count / np.median(seconds[:, 0]):,.1f}",
        *map(spread, ratios.T),
        *["–"] * (len(PEERS) - len(agree)),
        f"{' / '.join(map(str, agree.values()))} of {count}",
    ]


def cost_of_lines(subject: Subject, count: int, beam: int, rounds: int) -> list[str]:
    """What `count` sentences cost beside the next power of two of them, the most in a batch."""
    power, translate = 1 << (count - 1).bit_length(), ours(subject.model)
    if power > len(subject.sentences):
        raise SystemExit(f"--lines={count} needs {power} sentences; {subject.name} has fewer")
    # In an order that has nothing to do with their lengths, and the same each time.
    chosen = np.random.default_rng(0).permutation(len(subject.sentences))[:power]
    seconds = np.zeros((2 + rounds, 2))
    for number, (place, most) in itertools.product(range(2 + rounds), enumerate((count, power))):
        start = time.perf_counter()
        translate([subject.sentences[n] for n in chosen[:most]], power, beam)
        seconds[number, place] = time.perf_counter() - start
    times = spread(seconds[2:, 0] / seconds[2:, 1])  # the first two warm up
    return [subject.name, str(beam), str(count), str(power), times]


def parse_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    numbers = {"type": lambda text: [int(n) for n in text.split(",")]}
    parser.add_argument("--workdir", action="append", required=True, help="trained; repeatable")
    parser.add_argument("--base", choices=("paper", "toy"), help="also the untrained model")
    parser.add_argument("--batches", default=[1, 32, 128], **numbers)
    parser.add_argument("--beams", default=[1, 4], **numbers)
    parser.add_argument("--sentences", type=int, default=256, help="an eighth of them for batch 1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lines", default=[], help="instead: the cost of so many", **numbers)
    parser.add_argument("--device", choices=tuple(OURS), default="cpu")
    return parser.parse_args()


def main() -> None:
    """Prints a markdown table, a line as soon as it is measured."""
    flags = parse_flags()
    threads = len(os.sched_getaffinity(0))
    compute_dtype = OURS[flags.device]
    device = "cuda" if flags.device == "gpu" else "cpu"
    jax.config.update("jax_platforms", device)
    subjects = [from_workdir(workdir, compute_dtype) for workdir in flags.workdir]
    if flags.base:
        options = SIZES[flags.base] | {"compute_dtype": compute_dtype}
        subjects.append(base(subjects[-1], options, pieces=32_000, length=28))
    if flags.lines:
        print(f"| model | beam | lines | power of two | time |\n|{'---|' * 5}", flush=True)
        for subject, beam, count in itertools.product(subjects, flags.beams, flags.lines):
            row = cost_of_lines(subject, count, beam, flags.rounds)
            print(f"| {' | '.join(row)} |", flush=True)
        return
    peers = (f"{p.__name__} {p.__version__}" for p in (jax, ctranslate2, transformers, torch))
    print(f"{', '.join(peers)}; {threads} threads; {flags.rounds} rounds\n", flush=True)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    for subject in subjects:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            programs = {"ours": ours(subject.model)}
            export_model("ctranslate2", subject.model, folder / "ct2", quantization="")
            for peer, (precision, side) in CT2.items():
                inter, intra = (threads, 1) if side else (1, threads)
                on = {"device": device, "compute_type": precision[flags.device]}
                on |= {"inter_threads": inter, "intra_threads": intra}
                programs[peer] = elsewhere(stack, ct2, folder / "ct2", on)
            if subject.model.config.model.norm == "post":  # as all Marian models
                export_model("marian", as_marian(subject.model), folder / "hf", quantization="")
                how = hugging_face, folder / "hf", device, threads
                programs["hf"] = elsewhere(stack, *how)
            for batch, beam in itertools.product(flags.batches, flags.beams):
                most = flags.sentences if batch > 1 else max(1, flags.sentences // 8)
                # Evenly chosen, not the first: lengths as mixed as those of the whole text.
                count, texts = min(most, len(subject.sentences)), subject.sentences
                sentences = [texts[n * len(texts) // count] for n in range(count)]
                found = measure(programs, sentences, batch, beam, flags.rounds)
                row = [subject.name, str(batch), str(beam), *cells(*found, count)]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
