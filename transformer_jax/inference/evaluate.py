"""A split, translated and scored."""

import dataclasses
from collections.abc import Callable, Sequence

from transformer_jax.data import corpora, held_out
from transformer_jax.evaluation.scores import Scores, corpus_scores
from transformer_jax.inference.trained import Model
from transformer_jax.inference.translator import Hypothesis, first_best


@dataclasses.dataclass(frozen=True)
class TranslatedSplit:
    """A split of a corpus with the translations of a model.

    Attributes:
      corpus: its pairs.
      hypotheses: of each source, best first; none for a source that is too long.
      target_language: decides how BLEU counts.
    """

    corpus: corpora.Corpus
    hypotheses: Sequence[Sequence[Hypothesis]]
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


def evaluate(model: Model, split: str = "test") -> Scores:
    """Translates a split, as held out when the model was trained, and scores it.

    Args:
      model: a trained one.
      split: "valid", "test", …; see `corpora.split_names`.

    Raises:
      UserError: if there is no such split, its text cannot be read, or it was trained on; see
        `held_out.load_split`.
    """
    corpus, _ = held_out.load_split(model.workdirs, model.config.data, split)
    return translate_corpus(model, corpus).scores()


def translate_corpus(
    model: Model, corpus: corpora.Corpus, *, progress: Callable[[int], None] = lambda count: None
) -> TranslatedSplit:
    """Translates every source of a corpus.

    Args:
      model: a trained one.
      corpus: pairs of raw text.
      progress: called now and then with the number of sentences done since the last call.
    """
    found = model.hypotheses([source for source, _ in corpus.pairs], progress=progress)
    return TranslatedSplit(corpus, found, model.config.data.target_language)
