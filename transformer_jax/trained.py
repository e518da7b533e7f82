"""What a trained workdir can do: `--mode=evaluate` and `--mode=translate`."""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer_jax import config as configs
from transformer_jax import evaluation, tracking, training
from transformer_jax.checkpoint import Checkpoints
from transformer_jax.config import CONFIG_FILE, Config, UserError
from transformer_jax.data import corpora
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.model import Transformer
from transformer_jax.tracking import say
from transformer_jax.translation import Hypothesis, Translator, first_best


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a workdir alone gives: everything to translate with."""

    config: Config
    translator: Translator
    params: Any
    steps: list[int]

    def translate(self, sentences: Sequence[str]) -> list[list[Hypothesis]]:
        """See `Translator.translate`."""
        return self.translator.translate(self.params, sentences)


def load(config: Config, workdir: Path, *, weights: str) -> Trained:
    """Loads tokenizer and weights from `workdir`; `config` is the workdir's own, or changed.

    Raises:
      UserError: if something is missing or damaged.
    """
    configs.validate(config)
    saved = configs.load(workdir / CONFIG_FILE)
    differing = configs.differences(saved, config)
    configs.refuse_differences(
        workdir, [d for d in differing if d.startswith(("model.", "data.vocab_size:"))]
    )
    tokenizers = Tokenizers.load(workdir)
    model = Transformer(config.model, tokenizers.target.vocab_size, tokenizers.source.vocab_size)
    params_like = jax.eval_shape(lambda: training.create_state(config, model)).params
    checkpoints = Checkpoints(workdir, keep=config.train.average_checkpoints)
    params, steps = checkpoints.restore_params(params_like, weights)
    checkpoints.close()
    translator = Translator(model, tokenizers, config.decode, seed=config.seed)
    return Trained(config, translator, params, steps)


def evaluate(config: Config, workdir: Path, *, split: str, weights: str) -> evaluation.Scores:
    """Translates a split, prints its scores and some sentences, and writes them to the workdir."""
    trained = load(config, workdir, weights=weights)
    corpus = corpora.load_split(config.data, split)
    pairs = corpus.pairs
    sources, references = map(list, zip(*pairs, strict=True))
    with tracking.progress_bar(len(sources), f"translating {split}") as bar:
        found = trained.translator.translate(trained.params, sources, progress=bar.update)
    translations = first_best(found)
    _warn(corpus, found, references, config.data.target_language)
    scores = evaluation.score(translations, references, target_language=config.data.target_language)
    folder = workdir / "evaluation" / split
    evaluation.write_report(
        folder,
        scores,
        sources,
        translations,
        references,
        split=split,
        weights=weights,
        steps=trained.steps,
        decode=dataclasses.asdict(config.decode),
    )
    shown = np.random.default_rng(0).choice(len(pairs), size=min(10, len(pairs)), replace=False)
    rows = [[side[n] for n in sorted(shown)] for side in (sources, translations, references)]
    print(f"\n{split}, weights {weights} of step {', '.join(map(str, trained.steps))}")
    print(evaluation.side_by_side(*rows))
    print(f"{scores}\n(all of them: {folder}/translations.tsv)")
    return scores


def _warn(
    corpus: corpora.Corpus,
    found: Sequence[Sequence[Hypothesis]],
    references: Sequence[str],
    target_language: str,
) -> None:
    """Says what makes scores mean less than they seem to."""
    untranslated = sum(not hypotheses for hypotheses in found)
    if corpus.empty:
        say(f"{corpus.empty:,} pairs with an empty side left out")
    if untranslated:
        say(f"{untranslated:,} sentences too long to translate count as empty translations")
    if evaluation.is_mistaken_for_words(references, target_language):
        say(
            f"the references are Chinese and data.target_language={target_language!r}: BLEU takes "
            "a clause for a word; give --config.data.target_language=zh"
        )


def demo(config: Config, workdir: Path) -> None:
    """Translates `config.demo`, and says how to translate more."""
    if not config.demo:
        return
    trained = load(config, workdir, weights="average")
    print(f"\n{config.demo} → {first_best(trained.translate([config.demo]))[0]}")
    print("Translate your own text:")
    print(f"  echo {config.demo} | python launch.py --mode=translate --workdir={workdir}")


def translate(
    config: Config,
    workdir: Path,
    input_file: str | None,
    output_file: str | None,
    *,
    weights: str,
    n_best: int,
) -> None:
    """Translates every line of the input to a line of the output; with a terminal, one by one.

    Args:
      config: the workdir's.
      workdir: a trained one.
      input_file: sentences, one a line; None = standard input.
      output_file: line k is the translation of line k; written whole or not at all. None =
        standard output.
      weights: see `Checkpoints.restore_params`.
      n_best: how many translations of each; more than 1 gives lines
        "number of the input line<TAB>score<TAB>text".

    Raises:
      UserError: if the search gives fewer than `n_best`, or a file cannot be read or written.
    """
    decode = config.decode
    most = decode.beam_size if decode.method == "beam" else 1
    if n_best > most:
        raise UserError(
            f"--n_best={n_best} is more than decode.method={decode.method!r} gives with "
            f"decode.beam_size={decode.beam_size}: at most {most}"
        )
    if output_file and not Path(output_file).parent.is_dir():
        raise UserError(f"cannot write {output_file}: there is no such folder")
    if input_file is None and sys.stdin.isatty():
        _prompt(load(config, workdir, weights=weights), n_best)
        return
    sentences = corpora.read_lines(Path(input_file)) if input_file else _standard_input()
    trained = load(config, workdir, weights=weights)
    with tracking.progress_bar(len(sentences), "translating") as bar:
        found = trained.translator.translate(trained.params, sentences, progress=bar.update)
    text = ""
    for number, hypotheses in enumerate(found, start=1):
        if not hypotheses:
            say(f"line {number}: too long to translate, left empty")
        text += _format(number, hypotheses, n_best)
    if output_file is None:
        sys.stdout.write(text)
    else:
        configs.write_whole(Path(output_file), text)


def _standard_input() -> list[str]:
    return corpora.split_lines(sys.stdin.buffer.read(), "standard input")


def _prompt(trained: Trained, n_best: int) -> None:
    data = trained.config.data
    say(f"{data.source_language} → {data.target_language}; an empty line ends")
    trained.translate([trained.config.demo or "a"])  # so the first short question needs no wait
    for number in itertools.count(1):
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            return
        (hypotheses,) = trained.translate([line])
        print(
            _format(number, hypotheses, n_best) if hypotheses else "too long to translate\n", end=""
        )


def _format(number: int, hypotheses: Sequence[Hypothesis], n_best: int) -> str:
    if n_best == 1:
        return (hypotheses[0].text if hypotheses else "") + "\n"
    return "".join(f"{number}\t{h.score:.4f}\t{h.text}\n" for h in hypotheses[:n_best])
