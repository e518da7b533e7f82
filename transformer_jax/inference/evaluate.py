"""A split, translated and scored."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from transformer_jax import storage
from transformer_jax.config.files import CONFIG_FILE, load_config
from transformer_jax.console import log
from transformer_jax.data import corpora, held_out
from transformer_jax.data.language_codes import without_code
from transformer_jax.errors import UserError
from transformer_jax.evaluation.bins import Bin, count_words, scores_by_kind
from transformer_jax.evaluation.scores import Scores, corpus_scores
from transformer_jax.evaluation.translations import folder_of, name_across, read_translations
from transformer_jax.inference.trained import Model
from transformer_jax.inference.translator import Hypothesis, first_best

_CHECKED = 1000  # pairs, at most, that show whether a text is the one that was trained on


@dataclasses.dataclass(frozen=True)
class TranslatedSplit:
    """A split of a corpus with the translations of a model.

    Attributes:
      corpus: its pairs.
      hypotheses: of each source, best first; none for a source that is too long.
      source_language, target_language: decide how words and BLEU count.
    """

    corpus: corpora.Corpus
    hypotheses: Sequence[Sequence[Hypothesis]]
    source_language: str
    target_language: str

    @property
    def sources(self) -> list[str]:
        """The sources, raw text."""
        return [source for source, _ in self.corpus.pairs]

    @property
    def references(self) -> list[str]:
        """The references, raw text."""
        return [target for _, target in self.corpus.pairs]

    @property
    def translations(self) -> list[str]:
        """The best translation of each source; "" where there is none."""
        return first_best(self.hypotheses)

    def scores(self) -> Scores:
        """BLEU, chrF and exact match of the translations."""
        return corpus_scores(
            self.translations, self.references, target_language=self.target_language
        )

    def by_kind(self, trained_words: Mapping[str, int] | None) -> dict[str, list[Bin]]:
        """Scores by kind of sentence; see `scores_by_kind`."""
        return scores_by_kind(
            [without_code(source) for source in self.sources],
            self.translations,
            self.references,
            source_language=self.source_language,
            target_language=self.target_language,
            trained_words=trained_words,
            corpora=self.corpus.origins,
        )


def evaluate(model: Model, split: str = "test", *, sentences_of: str | Path = "") -> Scores:
    """Translates a split, as held out when the model was trained, and scores it.

    Args:
      model: a trained one.
      split: "valid", "test", …; see `corpora.split_names`.
      sentences_of: another workdir, which was evaluated on its own split: the sentences are those.

    Raises:
      UserError: if there is no such split, its text cannot be read, or it was trained on; see
        `held_out.load_split`.
    """
    owner = storage.path(str(sentences_of)) if sentences_of else None
    corpus, _ = load_corpus(model, split, owner)
    return translate_corpus(model, corpus).scores()


def load_corpus(
    model: Model, split: str, owner: Path | None = None
) -> tuple[corpora.Corpus, held_out.Overlap | None]:
    """A split to evaluate `model` on, and how much of it the model was trained on.

    With `owner`, the sentences are those that this workdir was evaluated on.

    Raises:
      UserError: as `evaluate` does.
    """
    if owner is None:
        return held_out.load_split(model.workdirs, model.config.data, split)
    try:
        sources, _, references, origins = read_translations(folder_of(owner, split))
    except FileNotFoundError:
        raise UserError(
            f"{owner} has not been evaluated on {split}: python launch.py --mode=evaluate "
            f"--workdir={owner} --split={split}"
        ) from None
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{folder_of(owner, split)} is damaged ({e!r})") from None
    theirs, ours = (
        f"{data.source_language} to {data.target_language}"
        for data in (load_config(owner / CONFIG_FILE).data, model.config.data)
    )
    if theirs != ours:
        raise UserError(
            f"{owner} translates {theirs}, and {model.workdirs[0]} {ours}: choose a --sentences_of "
            "of the same languages"
        )
    corpus = corpora.Corpus(list(zip(sources, references, strict=True)), 0, origins)
    return corpus, held_out.worst_overlap(model.workdirs, corpus, name_across(split, owner))


def translate_corpus(
    model: Model, corpus: corpora.Corpus, *, progress: Callable[[int], None] = lambda count: None
) -> TranslatedSplit:
    """Translates every source of a corpus.

    Args:
      model: a trained one.
      corpus: pairs of raw text.
      progress: called now and then with the number of sentences done since the last call.
    """
    found = model.hypotheses([source for source, _ in corpus.pairs], n_best=1, progress=progress)
    data = model.config.data
    return TranslatedSplit(corpus, found, data.source_language, data.target_language)


def trained_words(model: Model) -> Counter[str] | None:
    """How often each word is in the target side of the training text of the first workdir.

    None, and a logged line, if the text is not where training read it, or is another one now; TFDS
    is not read again, which might download it.
    """
    workdir, now = model.workdirs[0], model.config.data
    try:
        data = dataclasses.replace(load_config(workdir / CONFIG_FILE).data, path=now.path)
        if corpora.reads_datasets(data):
            raise UserError("the training text is in TFDS")
        pairs = corpora.load_split(data, "train").pairs
    except UserError as e:
        log(f"no scores by rare words: {e}")
        return None
    some = pairs[:: len(pairs) // _CHECKED + 1]
    if held_out.exists(workdir) and held_out.count_overlap(workdir, some).pairs < len(some):
        log("no scores by rare words: the training text has changed since training began")
        return None
    return count_words((target for _, target in pairs), now.target_language)
