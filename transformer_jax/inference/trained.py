"""What a trained workdir can do: `--mode=evaluate`, `--mode=translate` and `--mode=score`."""

import dataclasses
import functools
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax import storage
from transformer_jax.config.checks import check_config
from transformer_jax.config.files import CONFIG_FILE, differences, load_config, refuse_differences
from transformer_jax.config.options import Config
from transformer_jax.console import log, progress_bar
from transformer_jax.data import corpora
from transformer_jax.data import text as data_text
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.errors import UserError
from transformer_jax.evaluation.degenerate import (
    Degeneracy,
    degeneracy_warnings,
    measure_degeneracy,
)
from transformer_jax.evaluation.scores import (
    Scores,
    corpus_scores,
    side_by_side,
    warn_of_words,
    write_translations,
)
from transformer_jax.inference.batching import SOURCE_LENGTHS
from transformer_jax.inference.scorer import Scorer, TokenScores, perplexity
from transformer_jax.inference.translator import Hypothesis, Translator, first_best
from transformer_jax.model.size import parameter_shapes
from transformer_jax.model.transformer import Transformer
from transformer_jax.parallel import processes
from transformer_jax.parallel.devices import all_devices
from transformer_jax.storage import is_remote, write_whole
from transformer_jax.workdir import card
from transformer_jax.workdir.checkpoints import Checkpoints
from transformer_jax.workdir.metrics import bleu_scores

_MODEL_OPTIONS = ("model.", "data.vocab_size:")


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a workdir alone gives: everything to translate with; of several workdirs, an ensemble.

    Attributes:
      config: the first workdir's, whose decode options are used.
      tokenizers: the first's; the others have the same vocabularies.
      models: one for each workdir.
      params: each model's.
      steps: of each model, the steps of the checkpoints that `params` is the mean of.
    """

    config: Config
    tokenizers: Tokenizers
    models: tuple[Transformer, ...]
    params: tuple[Any, ...]
    steps: tuple[list[int], ...]

    @functools.cached_property
    def translator(self) -> Translator:
        """Translates with `params`."""
        decode, seed = self.config.decode, self.config.seed
        return Translator(self.models, self.tokenizers, decode, seed=seed, devices=all_devices())

    def translate(self, sentences: Sequence[str]) -> list[list[Hypothesis]]:
        """See `Translator.translate`."""
        return self.translator.translate(self.params, sentences)


def load_trained(
    config: Config, workdir: Path, *, weights: str, ensemble: Sequence[Path] = ()
) -> Trained:
    """Loads tokenizers and weights from `workdir`; `config` is the workdir's own, or changed.

    Args:
      config: the options to use.
      workdir: a trained one.
      weights: see `Checkpoints.restore_params`.
      ensemble: further workdirs, whose models are used besides.

    Raises:
      UserError: if something is missing or damaged, or vocabularies differ.
    """
    check_config(config)
    for folder in (workdir, *ensemble):
        storage.check_workdir(folder)
    saved = load_config(workdir / CONFIG_FILE)
    # What the embeddings started from, and where, no longer matters.
    model = [d for d in differences(saved, config) if d.startswith(_MODEL_OPTIONS)]
    differing = [d for d in model if not d.startswith("model.pretrained_embeddings:")]
    refuse_differences(workdir, differing)
    members = [_load_one(config, workdir, weights)]
    vocabularies = [side.vocabulary for side in members[0][0]]
    for other in ensemble:
        members.append(_load_one(load_config(other / CONFIG_FILE), other, weights))
        if [side.vocabulary for side in members[-1][0]] != vocabularies:
            raise UserError(
                f"{workdir} and {other} cannot be an ensemble: their vocabularies differ"
            )
    tokenizers, models, params, steps = zip(*members, strict=True)
    return Trained(config, tokenizers[0], models, params, steps)


def _load_one(
    config: Config, workdir: Path, weights: str
) -> tuple[Tokenizers, Transformer, Any, list[int]]:
    tokenizers = Tokenizers.load(workdir)
    model = Transformer(config.model, tokenizers.target.vocab_size, tokenizers.source.vocab_size)
    params_like = parameter_shapes(model)
    scores = bleu_scores(workdir) if weights == "best" else {}
    t = config.train
    checkpoints = Checkpoints(
        workdir, keep=t.average_checkpoints, every=t.checkpoint_every, scores=scores
    )
    everywhere = all_devices().replicated
    params, steps = checkpoints.restore_params(params_like, weights, everywhere)
    checkpoints.close()
    return tokenizers, model, params, steps


def evaluate(
    config: Config,
    workdir: Path,
    *,
    split: str,
    weights: str,
    ensemble: Sequence[Path] = (),
    translator: Translator | None = None,
) -> Scores:
    """Translates a split, prints its scores and some sentences, and writes them to the workdir.

    They go to evaluation/SPLIT, or, of an ensemble, to evaluation/SPLIT-ensemble; the scores stand
    on the run's card, too. A `translator` of the same model and options, compiled already, saves
    compiling one.
    """
    trained = load_trained(config, workdir, weights=weights, ensemble=ensemble)
    card.read(workdir)  # damaged? Now is better than after the translation
    corpus = corpora.load_split(config.data, split)
    pairs = corpus.pairs
    sources, references = map(list, zip(*pairs, strict=True))
    with progress_bar(len(sources), f"translating {split}") as bar:
        translator = translator or trained.translator
        found = translator.translate(trained.params, sources, progress=bar.update)
    translations = first_best(found)
    degeneracy = measure_degeneracy(sources, translations, references)
    _warn(corpus, found, references, config.data.target_language, degeneracy)
    scores = corpus_scores(translations, references, target_language=config.data.target_language)
    if not processes.is_writer():
        return scores
    folder = workdir / "evaluation" / (f"{split}-ensemble" if ensemble else split)
    about = {"ensemble": [str(path) for path in ensemble]} if ensemble else {}
    measured = write_translations(
        folder,
        scores,
        sources,
        translations,
        references,
        split=split,
        text_hash=corpus.text_hash(),
        weights=weights,
        steps=trained.steps if ensemble else trained.steps[0],
        **about,
        decode=dataclasses.asdict(config.decode),
        degeneracy=dataclasses.asdict(degeneracy),
    )
    card.add_evaluation(workdir, measured)
    shown = np.random.default_rng(0).choice(len(pairs), size=min(10, len(pairs)), replace=False)
    rows = [[side[n] for n in sorted(shown)] for side in (sources, translations, references)]
    steps = "; ".join(", ".join(map(str, model)) for model in trained.steps)
    print(f"\n{split}, weights {weights} of step {steps}")
    print(side_by_side(*rows))
    print(f"{scores}\n(all of them: {folder}/translations.tsv)")
    return scores


def _warn(
    corpus: corpora.Corpus,
    found: Sequence[Sequence[Hypothesis]],
    references: Sequence[str],
    target_language: str,
    degeneracy: Degeneracy,
) -> None:
    """Says what makes scores mean less than they seem to, and what is plainly wrong."""
    untranslated = sum(not hypotheses for hypotheses in found)
    if corpus.empty:
        log(f"{corpus.empty:,} pairs with an empty side left out")
    if untranslated:
        log(f"{untranslated:,} sentences too long to translate count as empty translations")
    warn_of_words(references, target_language)
    for warning in degeneracy_warnings(degeneracy):
        log(warning)


def demo(config: Config, workdir: Path, translator: Translator | None = None) -> None:
    """Translates `config.demo`, and says how to translate more; see `evaluate`."""
    if not config.demo:
        return
    trained = load_trained(config, workdir, weights="average")
    translator = translator or trained.translator
    (best,) = first_best(translator.translate(trained.params, [config.demo]))
    if not processes.is_writer():
        return
    print(f"\n{config.demo} → {best}")
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
    prefix_file: str | None = None,
    ensemble: Sequence[Path] = (),
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
      prefix_file: line k is how the translation of line k has to begin; may be blank.
      ensemble: see `load`.

    Raises:
      UserError: if the search gives fewer than `n_best`, or a file cannot be read or written.
    """
    decode = check_config(config).decode
    most = decode.beam_size if decode.method == "beam" else 1
    if n_best > most:
        raise UserError(
            f"--n_best={n_best} is more than decode.method={decode.method!r} gives with "
            f"decode.beam_size={decode.beam_size}: at most {most}"
        )
    _check_writable(output_file)
    if input_file is None and sys.stdin.isatty() and not processes.joined():
        if prefix_file:
            raise UserError("--prefixes goes with lines of text: give --input=FILE")
        _prompt(load_trained(config, workdir, weights=weights, ensemble=ensemble), n_best)
        return
    sentences = data_text.read_lines(storage.path(input_file)) if input_file else _standard_input()
    prefixes = data_text.read_lines(storage.path(prefix_file)) if prefix_file else None
    if prefixes is not None and len(prefixes) != len(sentences):
        raise UserError(
            f"{prefix_file} has {len(prefixes)} lines, and there are {len(sentences)} to "
            "translate: give one for each, which may be blank"
        )
    trained = load_trained(config, workdir, weights=weights, ensemble=ensemble)
    with progress_bar(len(sentences), "translating") as bar:
        found = trained.translator.translate(
            trained.params, sentences, prefixes=prefixes, progress=bar.update
        )
    text = ""
    for number, hypotheses in enumerate(found, start=1):
        if not hypotheses:
            which = "it or its prefix is " if prefixes else ""
            log(f"line {number}: {which}too long to translate, left empty")
        text += _format(number, hypotheses, n_best)
    _write(output_file, text)


def score(
    config: Config,
    workdir: Path,
    input_file: str | None,
    target_file: str | None,
    output_file: str | None,
    *,
    split: str,
    weights: str,
    ensemble: Sequence[Path] = (),
) -> None:
    """Scores given translations: a line of JSON for each, and their perplexity on stderr.

    A line has source, translation, log_prob (nats), perplexity (per piece), pieces and log_probs
    (of each piece, <eos> included); the numbers of a pair too long to score are null.

    Args:
      config: the workdir's.
      workdir: a trained one.
      input_file: sources, one a line, with `target_file`; None = the pairs of `split`.
      target_file: their translations.
      output_file: None = standard output.
      split: the workdir's "train", "valid", "test", ….
      weights: see `Checkpoints.restore_params`.
      ensemble: see `load`.

    Raises:
      UserError: if one file is given without the other, their lines differ in number, or a file
        cannot be read or written.
    """
    _check_writable(output_file)
    if bool(input_file) != bool(target_file):
        raise UserError("--mode=score takes --input=SOURCES --translations=FILE, or neither")
    if input_file and target_file:
        sources, targets = (
            data_text.read_lines(storage.path(f)) for f in (input_file, target_file)
        )
        if len(sources) != len(targets):
            raise UserError(
                f"{input_file} has {len(sources)} lines and {target_file} {len(targets)}: line k "
                "of one has to translate line k of the other"
            )
        pairs = list(zip(sources, targets, strict=True))
    else:
        pairs = corpora.load_split(config.data, split).pairs
    trained = load_trained(config, workdir, weights=weights, ensemble=ensemble)
    scorer = Scorer(trained.models, trained.tokenizers, devices=all_devices())
    with progress_bar(len(pairs), "scoring") as bar:
        found = scorer.score(trained.params, pairs, progress=bar.update)
    _write(output_file, "".join(map(_score_line, pairs, found)))
    scored = [scores for scores in found if scores]
    log_prob = math.fsum(scores.log_prob for scores in scored)
    pieces = sum(len(scores.pieces) for scores in scored)
    if len(scored) < len(found):
        log(f"{len(found) - len(scored):,} pairs too long to score")
    if scored:
        log(
            f"{len(scored):,} translations, {pieces:,} pieces: {log_prob:.2f} nats, "
            f"perplexity {perplexity(log_prob, pieces):.3f} per piece"
        )


def _score_line(pair: tuple[str, str], scores: TokenScores | None) -> str:
    line: dict[str, Any] = dict(zip(("source", "translation"), pair, strict=True))
    line["log_prob"] = scores and scores.log_prob
    # JSON has no infinity.
    line["perplexity"] = scores and (scores.perplexity if scores.perplexity < math.inf else None)
    line["pieces"] = scores and scores.pieces
    line["log_probs"] = scores and scores.log_probs
    return json.dumps(line, ensure_ascii=False) + "\n"


def _standard_input() -> list[str]:
    if processes.joined():  # each would read its own, and wait for the others' sentences
        raise UserError("several processes cannot share standard input: give --input=FILE")
    return data_text.split_lines(sys.stdin.buffer.read(), "standard input")


def _check_writable(output_file: str | None) -> None:
    if not output_file:
        return
    path = storage.path(output_file)
    if not is_remote(path) and not path.parent.is_dir():
        raise UserError(f"cannot write {output_file}: there is no such folder")


def _write(output_file: str | None, text: str) -> None:
    if not processes.is_writer():
        return
    if output_file is None:
        sys.stdout.write(text)
    else:
        write_whole(storage.path(output_file), text)


def _prompt(trained: Trained, n_best: int) -> None:
    data = trained.config.data
    log(f"{data.source_language} → {data.target_language}; an empty line ends")
    # So that no question needs to wait, unless it is a very long one.
    (word,) = trained.tokenizers.source.encode(["a"])
    for pieces in SOURCE_LENGTHS[:3]:
        trained.translate([" ".join(["a"] * ((pieces - 1) // len(word)))])
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
