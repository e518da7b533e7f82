"""Translate a split and score it: BLEU, chrF and exact match, against the references.

Prints the scores, also by length of the source and by how rare the words of the reference are, with
some of the sentences, and writes all of them to evaluation/SPLIT in the workdir: translations.tsv,
translations.jsonl and scores.json.

Examples:
    launch.py --mode=evaluate --workdir=runs/mine --split=valid --weights=best
    launch.py --mode=evaluate --workdir=runs/tuned --sentences_of=runs/mine
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer_jax.modes import targets
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch

if TYPE_CHECKING:
    from transformer_jax.data.tokenizer import Tokenizer
    from transformer_jax.evaluation.degenerate import Degeneracy
    from transformer_jax.evaluation.scores import Scores
    from transformer_jax.inference.evaluate import TranslatedSplit
    from transformer_jax.inference.trained import Model


def define(flags: Flags) -> None:
    """Defines the flags."""
    flags.split()
    flags.path("sentences_of", "Workdir on whose sentences of that split to evaluate.")
    flags.weights()
    flags.ensemble()
    flags.reverse()
    flags.processes()
    targets.define(flags)


def run(launch: Launch) -> int:
    """Evaluates a trained workdir."""
    if targets.wanted(launch):
        return targets.write_job(launch)
    launch.start()
    evaluate(
        launch.load_model(),
        launch.workdir,
        split=launch["split"],
        weights=launch["weights"],
        ensemble=launch.ensemble,
        sentences_of=launch.path("sentences_of") if launch["sentences_of"] else None,
    )
    return 0


def evaluate(
    model: "Model",
    workdir: Path,
    *,
    split: str,
    weights: str,
    ensemble: Sequence[Path] = (),
    sentences_of: Path | None = None,
) -> "Scores":
    """Translates a split, prints its scores and some sentences, and writes them to the workdir.

    They go to evaluation/SPLIT, of an ensemble to evaluation/SPLIT-ensemble, and on the sentences
    of another workdir to evaluation/SPLIT-of-NAME; the card of the run lists the scores, too.
    """
    from transformer_jax.console import progress_bar
    from transformer_jax.evaluation import bins
    from transformer_jax.evaluation.degenerate import measure_degeneracy
    from transformer_jax.evaluation.translations import folder_of, name_across, write_translations
    from transformer_jax.inference.evaluate import load_corpus, trained_words, translate_corpus
    from transformer_jax.parallel import processes
    from transformer_jax.workdir import card

    card.read(workdir)  # a damaged card is an error now, and not after the translation
    corpus, overlap = load_corpus(model, split, sentences_of)
    split = name_across(split, sentences_of) if sentences_of else split
    with progress_bar(len(corpus.pairs), f"translating {split}") as bar:
        found = translate_corpus(model, corpus, progress=bar.update)
    sources, translations, references = found.sources, found.translations, found.references
    degeneracy = measure_degeneracy(sources, translations, references)
    log_warnings(found, degeneracy, model.tokenizers.target)
    scores = found.scores()
    if not processes.is_writer():
        return scores
    steps = "; ".join(", ".join(map(str, each)) for each in model.steps)
    print(f"\n{split}, weights {weights} of step {steps}")
    print(_some(sources, translations, references))
    print(scores, flush=True)  # before anything can go wrong with writing them
    kinds = found.by_kind(trained_words(model))
    print(bins.table(kinds))
    folder = folder_of(workdir, f"{split}-ensemble" if ensemble else split)
    about: dict[str, Any] = {"ensemble": [str(path) for path in ensemble]} if ensemble else {}
    about |= {"reverse": str(model.reverse.workdirs[0])} if model.reverse else {}
    measured = write_translations(
        folder,
        scores,
        *(sources, translations, references),
        origins=corpus.origins,
        split=split,
        text_hash=corpus.text_hash(),
        trained_on=overlap and overlap._asdict(),
        weights=weights,
        steps=model.steps if ensemble else model.steps[0],
        **about,
        decode=dataclasses.asdict(model.config.decode),
        degeneracy=dataclasses.asdict(degeneracy),
        bins=bins.to_json(kinds),
    )
    card.add_evaluation(workdir, measured)
    print(f"(all of them: {folder}/translations.tsv)")
    return scores


def _some(*columns: Sequence[str]) -> str:
    """Ten sentences, the same ones each time."""
    import numpy as np

    from transformer_jax.evaluation.translations import side_by_side

    number = len(columns[0])
    shown = sorted(np.random.default_rng(0).choice(number, size=min(10, number), replace=False))
    return side_by_side(*([column[n] for n in shown] for column in columns))


def log_warnings(
    found: "TranslatedSplit", degeneracy: "Degeneracy", tokenizer: "Tokenizer"
) -> None:
    """Logs what makes scores mean less than they seem to, and what is plainly wrong."""
    from transformer_jax.console import log
    from transformer_jax.evaluation.degenerate import degeneracy_warnings
    from transformer_jax.evaluation.languages import reference_warnings

    untranslated = sum(not hypotheses for hypotheses in found.hypotheses)
    if found.corpus.empty:
        log(f"{found.corpus.empty:,} pairs with an empty side left out")
    if untranslated:
        log(f"{untranslated:,} sentences too long to translate count as empty translations")
    unlike = sum(tokenizer.normalized(text) != text for text in found.references)
    if unlike:
        log(
            f"{unlike:,} references have characters that the model does not write, such as "
            "no-break spaces or decomposed accents (data.normalization): scores count them"
        )
    about_text = reference_warnings(found.references, found.target_language)
    for warning in [*about_text, *degeneracy_warnings(degeneracy)]:
        log(warning)
