"""Noun phrases of the small world, and the people who act in it, in both languages."""

import functools
import random
from collections.abc import Sequence
from typing import TypeVar

from transformer_jax.data.small_world import lexicon
from transformer_jax.data.small_world.lexicon import (
    NOTHING,
    Noun,
    Phrase,
    Subject,
    indefinite,
    plural,
)

T = TypeVar("T")
_ONE_BY_ONE = ("car", "truck", "bike")


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """`rng.choice`, by `random()` alone: no Python version may change its numbers."""
    return items[int(rng.random() * len(items))]


@functools.cache
def nouns_of(kinds: str, *, measured: bool = False) -> list[Noun]:
    """The nouns of these kinds; `measured` leaves out those that are always bare."""
    nouns = [noun for noun in lexicon.NOUNS if noun.kind in kinds.split()]
    return [noun for noun in nouns if noun.measure or not measured]


@functools.cache
def of_kind(table: tuple[tuple[str, ...], ...], kind: str) -> list[Phrase]:
    """The phrases of PLACES, LOCATIONS, ADJECTIVES or COMPARED that go with `kind`."""
    return [Phrase(zh, en) for zh, en, kinds in table if kind in kinds.split()]


def attribute(adjective: Phrase) -> str:
    """The Chinese adjective before a noun: 新书, but 红色的书 and 贵的书."""
    return adjective.zh + "的" * (adjective.zh not in "大小新旧")


def noun_phrase(
    noun: Noun,
    determiner: Phrase,
    *,
    many: bool = False,
    measured: bool = True,
    adjective: Phrase = NOTHING,
) -> Phrase:
    """两 two + 书 book -> 两本书 two books; 一 a + 茶 tea -> 一杯茶 a cup of tea."""
    zh = determiner.zh + noun.measure * measured + attribute(adjective) + noun.zh
    of = noun.unit if measured else ""
    head = plural(of or noun.en) if many else of or noun.en
    words = " ".join(filter(None, (adjective.en, head, "of " + noun.en if of else "")))
    return Phrase(zh, indefinite(words) if determiner.en == "a" else f"{determiner.en} {words}")


def counted(rng: random.Random, noun: Noun, *, one: bool = False) -> Phrase:
    """一本书, 三本红色的书, 很多书."""
    roll, adjective = rng.random(), NOTHING
    fitting = of_kind(lexicon.ADJECTIVES, noun.kind)
    if fitting and rng.random() < 0.3:
        adjective = pick(rng, fitting)
    if one or roll < 0.45:
        return noun_phrase(noun, Phrase("一", "a"), adjective=adjective)
    if roll < 0.9 or noun.unit:
        return noun_phrase(noun, pick(rng, lexicon.NUMBERS), many=True, adjective=adjective)
    return noun_phrase(noun, Phrase("很多", "a lot of"), many=True, measured=False)


def possessor(rng: random.Random) -> Phrase:
    """我的 my, 老师的 the teacher's, 我妈妈的 my mother's."""
    roll = rng.random()
    if roll < 0.6:
        owner = pick(rng, lexicon.POSSESSIVES)
        return Phrase(owner.zh + "的", owner.en)
    owner = pick(rng, lexicon.NAMES) if roll < 0.75 else kin(rng) if roll < 0.9 else by_job(rng)
    return Phrase(owner.zh + "的", owner.en + "'s")


def kin(rng: random.Random) -> Phrase:
    """我妈妈 my mother."""
    whose, who = pick(rng, lexicon.POSSESSIVES[:4]), pick(rng, lexicon.KIN)
    return Phrase(whose.zh + who.zh, f"{whose.en} {who.en}")


def by_job(rng: random.Random) -> Phrase:
    """老师 the teacher."""
    noun = pick(rng, nouns_of("job"))
    return Phrase(noun.zh, "the " + noun.en)


def definite(rng: random.Random, noun: Noun) -> Subject:
    """这本书 this book, 那两本书 those two books, 这些书 these books, 我的书 my book."""
    roll, far = rng.random(), rng.random() < 0.5
    if roll < 0.35 and noun.kind not in ("job", "person"):
        return Subject(*noun_phrase(noun, possessor(rng), measured=False), "he", False, noun.zh)
    if roll < 0.75:
        determiner = Phrase("那", "that") if far else Phrase("这", "this")
        return Subject(*noun_phrase(noun, determiner), "he", False, noun.zh)
    determiner = Phrase("那", "those") if far else Phrase("这", "these")
    if counts := roll < 0.87 or bool(noun.unit):
        number = pick(rng, lexicon.NUMBERS)
        determiner = Phrase(determiner.zh + number.zh, f"{determiner.en} {number.en}")
    else:
        determiner = Phrase(determiner.zh + "些", determiner.en)
    phrase = noun_phrase(noun, determiner, many=True, measured=counts)
    return Subject(*phrase, "you", True, noun.zh)


def bare(noun: Noun, tense: str) -> str:
    """The English of a noun with nothing before it: plural, except where English wants one."""
    if noun.bare:
        return noun.bare
    if noun.kind == "job":
        return "the " + noun.en
    at_once = "book letter paper show song mount pet wild farm fish nature house tool"
    if (
        tense == "one"
        or (tense == "now" and noun.kind in at_once.split())
        or (tense and noun.kind in _ONE_BY_ONE)
    ):
        return indefinite(noun.en)
    return plural(noun.en)


def object_phrase(rng: random.Random, noun: Noun, tense: str, form: str) -> Phrase:
    """A bare, a counted or a definite object; after 不 and 没 never a counted one."""
    *_, bare_share, counted_share = lexicon.TENSES[tense]
    if form == "negative":
        bare_share = counted_share = 0.6
    roll = rng.random()
    if not noun.measure or (roll < bare_share and noun.kind != "person"):
        return Phrase(noun.zh, bare(noun, tense))
    if bare_share < roll < counted_share:
        return counted(rng, noun, one=tense == "now" or noun.kind in (*_ONE_BY_ONE, "mount"))
    return Phrase(*definite(rng, noun)[:2])


def person(rng: random.Random) -> Subject:
    """她, 小明, 我妈妈, 老师, 这个学生, 孩子们, 我和小明."""
    roll = rng.random()
    if roll < 0.5:
        return pick(rng, list(lexicon.PRONOUNS.values()))
    if roll < 0.75:
        name = roll < 0.6
        phrase = pick(rng, lexicon.NAMES) if name else kin(rng) if roll < 0.7 else by_job(rng)
        return Subject(*phrase, "he", False, phrase.zh)
    if roll < 0.9:
        return definite(rng, pick(rng, nouns_of("job person")))
    if roll < 0.95:
        noun = pick(rng, nouns_of("job person")[:8])
        return Subject(noun.zh + "们", f"the {plural(noun.en)}", "you", True, noun.zh)
    name = pick(rng, lexicon.NAMES)
    return Subject("我和" + name.zh, name.en + " and I", "you", True, "我和" + name.zh)
