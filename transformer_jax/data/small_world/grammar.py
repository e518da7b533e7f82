"""Small world: an unlimited Chinese-English corpus from a hand-written synchronous grammar.

Each rule builds both languages side by side, and the Chinese decides everything that the English
expresses: the translation is a function, and a perfect model scores 100 %. Attention has to learn
what a word list cannot: a place and a time move behind the verb, a measure word disappears, 了 or
每天 decides the tense, the subject decides has or have, the object decides whether 看 is read or
watch, and a bare noun is plural in English (喜欢猫, likes cats).

`valid` and `test` hold out combinations of (subject, verb, object) in every tense and form, inside
compounds too: training contains their words, but never their combinations. A quarter of the
statements have no final punctuation, in either language.

>>> from transformer_jax.data.small_world.lexicon import PRONOUNS, Phrase
>>> books, school = Phrase("三本书", "three books"), Phrase("在学校", "at school")
>>> action = clauses.Action("看", "read", books, school)
>>> time = Phrase("昨天", "yesterday")
>>> finish(clauses.render(PRONOUNS["她"], action, "past", time=time))
('她昨天在学校看了三本书。', 'She read three books at school yesterday.')
"""

import functools
import random
import zlib
from collections.abc import Sequence

from transformer_jax.data.small_world import clauses
from transformer_jax.data.small_world.clauses import Clause, join, some_form
from transformer_jax.data.small_world.lexicon import CONNECTIVES
from transformer_jax.data.small_world.noun_phrases import pick

SPLITS = ("train", "valid", "test", "longer")
# No sentence of the other splits exceeds these; every sentence of `longer` exceeds both.
MAX_CHARACTERS, MAX_WORDS = 24, 16
# 我有一只猫 is the first sentence that a newcomer translates: it must be unseen, whatever its hash.
FORCED_TEST = frozenset({"我 有 猫"})
SIMPLE = (
    *(clauses.event,) * 8,
    *(clauses.stative,) * 4,
    *(clauses.feeling,) * 2,
    *(clauses.quality,) * 3,
    clauses.identity,
    clauses.this_is,
    clauses.whereabouts,
    clauses.existence,
    clauses.comparison,
    clauses.what_or_how_many,
)
CHAINED = (
    *(clauses.event,) * 2,
    *(clauses.stative,) * 2,
    clauses.feeling,
    clauses.whereabouts,
    *(clauses.reason,) * 3,
)


def compound(rng: random.Random, length: int) -> Clause:
    """`length` clauses joined by 但是 but, 而且 and, 而 while, of one rule or after a reason."""
    rule, forms = pick(rng, CHAINED), ("statement", "statement", "negative")
    whole = rule(rng, pick(rng, forms))
    for _ in range(length - 1 - (rule is clauses.reason)):
        other = clauses.event if rule is clauses.reason else rule
        connective = pick(rng, CONNECTIVES if length == 2 else CONNECTIVES[:2])
        whole = join(whole, connective, other(rng, pick(rng, forms)))
    return whole


def sentence(rng: random.Random, *, longer: bool = False) -> Clause:
    """One random sentence, within both maxima or (`longer`) beyond both."""
    while True:
        if longer:
            clause = compound(rng, 3 + int(rng.random() * 2))
        elif rng.random() < 0.15:
            clause = compound(rng, 2)
        else:
            clause = pick(rng, SIMPLE)(rng, some_form(rng))
        beyond = (len(clause.zh) > MAX_CHARACTERS + 1, len(clause.en.split()) > MAX_WORDS)
        within = len(clause.zh) <= MAX_CHARACTERS and not beyond[1]
        if all(beyond) if longer else within:
            return clause


def finish(clause: Clause, *, period: bool = True) -> tuple[str, str]:
    """Capitalises, and punctuates: questions always, statements if `period`."""
    zh_end, en_end = ("？", "?") if clause.question else ("。", ".") if period else ("", "")
    return clause.zh + zh_end, clause.en[0].upper() + clause.en[1:] + en_end


def split_of(keys: Sequence[str]) -> str:
    """The split of a sentence with these combinations; one held-out combination decides it."""
    buckets = [0 if key in FORCED_TEST else zlib.crc32(key.encode()) % 100 for key in keys]
    return "test" if min(buckets) < 4 else "valid" if min(buckets) < 8 else "train"


def pairs(split: str, *, size: int, seed: int = 0) -> list[tuple[str, str]]:
    """`size` different (Chinese, English) pairs; (split, seed) decide them.

    A shorter list begins a longer one.

    Raises:
      ValueError: if `split` is not one of SPLITS.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    return list(_pairs(split, size, seed))


@functools.cache  # the evaluation that ends a training needs them again
def _pairs(split: str, size: int, seed: int) -> tuple[tuple[str, str], ...]:
    rng, seen = random.Random(f"small world {split} {seed}"), {}
    while len(seen) < size:
        clause = sentence(rng, longer=split == "longer")
        period = rng.random() < 0.75
        if split in ("longer", split_of(clause.keys)) and clause.zh not in seen:
            seen[clause.zh] = finish(clause, period=period)
    return tuple(seen.values())
