"""Scores by kind of sentence: how long its source is, how rare a word of its reference, its corpus.

A word is what BLEU counts in a language: a character of Chinese, and a full stop, too.
"""

import bisect
import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sacrebleu.metrics import BLEU

from transformer_jax.evaluation.languages import bleu_tokenizer
from transformer_jax.evaluation.scores import corpus_scores

# The largest number of each bin; one more bin has the rest.
_SOURCE_WORDS = (10, 20, 30, 50)
_OCCURRENCES = (0, 1, 5, 20)
SOURCE_LENGTH = "words of the source"
RAREST_WORD = "training count of the rarest reference word"
CORPUS = "corpus"


@dataclasses.dataclass(frozen=True)
class Bin:
    """The sentences of one kind, and their scores.

    Attributes:
      name: as in "11–20".
      sentences: how many they are.
      bleu: corpus BLEU, as of `Scores`.
      chrf: chrF2++.
    """

    name: str
    sentences: int
    bleu: float
    chrf: float


def count_words(texts: Iterable[str], language: str) -> collections.Counter[str]:
    """How often each word is in the texts."""
    words = _splitter(language)
    if bleu_tokenizer(language) != "13a":
        return collections.Counter(word for text in texts for word in words(text))
    # 13a cuts what stands between two spaces in one way wherever it stands, so once is enough.
    found: collections.Counter[str] = collections.Counter()
    for spaced, number in collections.Counter(s for text in texts for s in text.split()).items():
        for word in words(spaced):
            found[word] += number
    return found


def _splitter(language: str) -> Callable[[str], list[str]]:
    tokenizer = BLEU(tokenize=bleu_tokenizer(language)).tokenizer
    return lambda text: tokenizer(text).split()


def scores_by_kind(
    sources: Sequence[str],
    translations: Sequence[str],
    references: Sequence[str],
    *,
    source_language: str,
    target_language: str,
    trained_words: Mapping[str, int] | None = None,
    corpora: Sequence[str] = (),
) -> dict[str, list[Bin]]:
    """The bins of each kind, without empty ones.

    Args:
      sources, translations, references: one per sentence.
      source_language, target_language: decide what a word is, and what BLEU counts.
      trained_words: `count_words` of the target side of the training text; None = not known, and
        no bins by the rarest word, which is the one with the least occurrences there.
      corpora: the corpus of each sentence, if there are several.
    """
    kinds: dict[str, list[tuple[int, str]]] = {}  # of each sentence, the place and name of its bin
    lengths = map(len, map(_splitter(source_language), sources))
    kinds[SOURCE_LENGTH] = [_bin(length, _SOURCE_WORDS, least=1) for length in lengths]
    if trained_words is not None:
        rows = map(_splitter(target_language), references)
        rarest = (min((trained_words.get(word, 0) for word in row), default=0) for row in rows)
        kinds[RAREST_WORD] = [_bin(number, _OCCURRENCES, least=0) for number in rarest]
    if len(set(corpora)) > 1:
        kinds[CORPUS] = [(0, name) for name in corpora]
    found = {}
    for kind, labels in kinds.items():
        members = collections.defaultdict(list)
        for label, *pair in zip(labels, translations, references, strict=True):
            members[label].append(pair)
        found[kind] = [
            _scored(name, members[place, name], target_language) for place, name in sorted(members)
        ]
    return found


def _bin(number: int, largest: Sequence[int], *, least: int) -> tuple[int, str]:
    """The place and the name of the bin of a number.

    >>> [_bin(n, (0, 1, 5), least=0)[1] for n in (0, 1, 2, 5, 6)]
    ['0', '1', '2–5', '2–5', '6 or more']
    """
    place = bisect.bisect_left(largest, number)
    first = largest[place - 1] + 1 if place else least
    if place == len(largest):
        return place, f"{first} or more"
    return place, f"{first}" if largest[place] == first else f"{first}–{largest[place]}"


def _scored(name: str, pairs: Sequence[Sequence[str]], language: str) -> Bin:
    scores = corpus_scores(*zip(*pairs, strict=True), target_language=language, bootstrap=0)
    return Bin(name, len(pairs), scores.bleu, scores.chrf)


def table(kinds: Mapping[str, Sequence[Bin]]) -> str:
    """The bins as lines for a terminal."""
    lines = []
    for kind, bins in kinds.items():
        lines.append(f"\n{kind:44}  sentences   BLEU  chrF2++")
        lines += [f"  {b.name:42}  {b.sentences:9,} {b.bleu:6.1f} {b.chrf:8.1f}" for b in bins]
    return "\n".join(lines)


def to_json(kinds: Mapping[str, Sequence[Bin]]) -> dict[str, list[dict[str, Any]]]:
    """The bins as scores.json and the card have them."""
    return {kind: [dataclasses.asdict(b) for b in bins] for kind, bins in kinds.items()}
