"""Small world: an unlimited Chinese-English corpus from a hand-written synchronous grammar.

Each rule builds both languages side by side, and everything English says is decided by the Chinese,
so the translation is a function and a perfect model scores 100 %. What attention has to learn, and
a word list cannot: a place and a time move behind the verb, a measure word disappears, 了 or 每天
decides the tense, the subject decides has or have, the object decides whether 看 is read or watch,
and a bare noun is plural in English (喜欢猫, likes cats).

`valid` and `test` hold out combinations of (subject, verb, object) in every tense and form, and
inside compounds too: their words are known, their combinations never seen. A quarter of the
statements carry no final punctuation, in either language.

>>> action = Action("看", "read", Phrase("三本书", "three books"), Phrase("在学校", "at school"))
>>> finish(render(PRONOUNS["她"], action, "past", time=Phrase("昨天", "yesterday")))
('她昨天在学校看了三本书。', 'She read three books at school yesterday.')
"""

import functools
import random
import zlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from transformer_jax.data.small_world.lexicon import (
    ADJECTIVES,
    BE,
    COMPARED,
    CONNECTIVES,
    DEGREES,
    FAR,
    FEELINGS,
    FREQUENCIES,
    FUTURE,
    HABIT,
    KIN,
    LOCATIONS,
    NAMES,
    NEAR,
    NEGATED,
    NOTHING,
    NOUNS,
    NOW,
    NUMBERS,
    OBJECTIVES,
    PAST,
    PLACES,
    POSSESSIVES,
    PRONOUNS,
    STATIVES,
    TENSES,
    THINGS,
    TODAY,
    VERBS,
    Noun,
    Phrase,
    Subject,
    Verb,
    indefinite,
    past,
    plural,
    progressive,
    third_person,
)

T = TypeVar("T")
SPLITS = ("train", "valid", "test", "longer")
# No sentence of the other splits exceeds these; every sentence of `longer` exceeds both.
MAX_CHARACTERS, MAX_WORDS = 24, 16
# 我有一只猫 is what a newcomer translates first: it must be unseen, whatever its hash says.
FORCED_TEST = frozenset({"我 有 猫"})


class Action(NamedTuple):
    """A verb, its object, and the place (or means) that Chinese puts before the verb."""

    zh: str
    en: str
    object: Phrase = Phrase()
    place: Phrase = Phrase()
    heads: tuple[str, ...] = ("",)


class Clause(NamedTuple):
    """`keys` are the combinations it contains, which decide its split."""

    zh: str
    en: str
    keys: tuple[str, ...]
    question: bool = False


# ------------------------------------------------------------------------------------ noun phrases
def pick(rng: random.Random, items: Sequence[T]) -> T:
    """`rng.choice`, from `random()` alone, which no Python version may change."""
    return items[int(rng.random() * len(items))]


@functools.cache
def nouns_of(kinds: str, *, measured: bool = False) -> list[Noun]:
    """The nouns of these kinds; `measured` leaves out those that are only ever bare."""
    nouns = [noun for noun in NOUNS if noun.kind in kinds.split()]
    return [noun for noun in nouns if noun.measure or not measured]


@functools.cache
def of_kind(table: tuple[tuple[str, ...], ...], kind: str) -> list[Phrase]:
    """The phrases of PLACES, LOCATIONS, ADJECTIVES or COMPARED that go with `kind`."""
    return [Phrase(zh, en) for zh, en, kinds in table if kind in kinds.split()]


def attribute(adjective: Phrase) -> str:
    """新书, but 红色的书 and 贵的书."""
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
    fitting = of_kind(ADJECTIVES, noun.kind)
    if fitting and rng.random() < 0.3:
        adjective = pick(rng, fitting)
    if one or roll < 0.45:
        return noun_phrase(noun, Phrase("一", "a"), adjective=adjective)
    if roll < 0.9 or noun.unit:
        return noun_phrase(noun, pick(rng, NUMBERS), many=True, adjective=adjective)
    return noun_phrase(noun, Phrase("很多", "a lot of"), many=True, measured=False)


def possessor(rng: random.Random) -> Phrase:
    """我的 my, 老师的 the teacher's, 我妈妈的 my mother's."""
    roll = rng.random()
    if roll < 0.6:
        owner = pick(rng, POSSESSIVES)
        return Phrase(owner.zh + "的", owner.en)
    owner = pick(rng, NAMES) if roll < 0.75 else kin(rng) if roll < 0.9 else the(rng)
    return Phrase(owner.zh + "的", owner.en + "'s")


def kin(rng: random.Random) -> Phrase:
    whose, who = pick(rng, POSSESSIVES[:4]), pick(rng, KIN)
    return Phrase(whose.zh + who.zh, f"{whose.en} {who.en}")


def the(rng: random.Random) -> Phrase:
    """A bare person: 老师 the teacher."""
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
        number = pick(rng, NUMBERS)
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
    if tense == "one" or (tense == "now" and noun.kind in at_once.split()):
        return indefinite(noun.en)
    return (
        indefinite(noun.en) if noun.kind in ("car", "truck", "bike") and tense else plural(noun.en)
    )


def object_phrase(rng: random.Random, noun: Noun, tense: str, form: str) -> Phrase:
    """A bare, a counted or a definite object; under 不 and 没 never a counted one."""
    *_, bare_share, counted_share = TENSES[tense]
    if form == "negative":
        bare_share = counted_share = 0.6
    roll = rng.random()
    if not noun.measure or (roll < bare_share and noun.kind != "person"):
        return Phrase(noun.zh, bare(noun, tense))
    if bare_share < roll < counted_share:
        return counted(
            rng, noun, one=tense == "now" or noun.kind in ("car", "truck", "bike", "mount")
        )
    return Phrase(*definite(rng, noun)[:2])


def person(rng: random.Random) -> Subject:
    """她, 小明, 我妈妈, 老师, 这个学生, 孩子们, 我和小明."""
    roll = rng.random()
    if roll < 0.5:
        return pick(rng, list(PRONOUNS.values()))
    if roll < 0.75:
        phrase = pick(rng, NAMES) if roll < 0.6 else kin(rng) if roll < 0.7 else the(rng)
        return Subject(*phrase, "he", False, phrase.zh)
    if roll < 0.9:
        return definite(rng, pick(rng, nouns_of("job person")))
    if roll < 0.95:
        noun = pick(rng, nouns_of("job person")[:8])
        return Subject(noun.zh + "们", f"the {plural(noun.en)}", "you", True, noun.zh)
    name = pick(rng, NAMES)
    return Subject("我和" + name.zh, name.en + " and I", "you", True, "我和" + name.zh)


# ----------------------------------------------------------------------------------------- clauses
def conjugate(verb: str, tense: str, agree: str) -> tuple[str, str, str]:
    """(auxiliary, statement, after the auxiliary): ("does", "looks for", "look for")."""
    first, _, rest = verb.partition(" ")
    tail = " " + rest if rest else ""
    if tense in ("want", "like"):
        return conjugate(
            "want to " + verb if tense == "want" else f"like {progressive(first)}{tail}",
            "habit",
            agree,
        )
    if tense == "past":
        return "did", past(first) + tail, verb
    if tense == "now":
        auxiliary, plain = BE[agree][0], progressive(first) + tail
        return auxiliary, f"{auxiliary} {plain}", plain
    if tense in ("future", "can"):
        auxiliary = "will" if tense == "future" else "can"
        return auxiliary, f"{auxiliary} {verb}", verb
    return ("does", third_person(first) + tail, verb) if agree == "he" else ("do", verb, verb)


def arrange(subject: str, auxiliary: str, finite: str, plain: str, form: str) -> str:
    """English word order: subject finite; subject auxiliary-not plain; auxiliary subject plain."""
    if form == "question":
        return f"{auxiliary} {subject} {plain}"
    negated = NEGATED.get(auxiliary, auxiliary + "n't")
    return f"{subject} {negated} {plain}" if form == "negative" else f"{subject} {finite}"


def render(
    subject: Subject, action: Action, tense: str, form: str = "statement",
    time: Phrase = NOTHING, often: Phrase = NOTHING, plan: bool = False,
) -> Clause:  # fmt: skip
    """Chinese time, 不, place, verb, object is English verb, object, place, time.

    `form` is statement, negative or question; `plan` says 要 for 会.
    """
    marker = TENSES[tense][form == "negative"]
    if action.zh == "有" and form == "negative":
        marker = "没"
    if tense == "now" and not action.place.zh:
        marker += "在"  # 正 and 没 share the 在 of a place: 正在看书, 正在学校看书
    if plan and tense == "future" and marker == "会":
        marker = "要"
    done = "了" if tense == "past" and form != "negative" else ""
    zh = "".join((subject.zh, time.zh, often.zh, marker, action.place.zh, action.zh, done,
                  action.object.zh, "吗" * (form == "question")))  # fmt: skip
    auxiliary, finite, plain = conjugate(action.en, tense, subject.agree)
    verb = arrange(
        subject.en, auxiliary, f"{often.en} {finite}".strip(), f"{often.en} {plain}".strip(), form
    )
    en = " ".join(filter(None, (verb, action.object.en, action.place.en, time.en)))
    keys = tuple(f"{subject.head} {action.zh} {head}" for head in action.heads)
    return Clause(zh, en, keys, form == "question")


def be(subject: Subject, zh: str, en: str, form: str, head: str, *, was: bool = False) -> Clause:
    """A clause with to be; `zh` is the whole Chinese predicate, with its 不."""
    copula = BE[subject.agree][was]
    words = arrange(subject.en, copula, copula, "", form).replace("  ", " ").strip()
    question = form == "question"
    keys = (f"{subject.head} {head}",)
    return Clause(subject.zh + zh + "吗" * question, f"{words} {en}", keys, question)


def some_form(rng: random.Random) -> str:
    return pick(rng, ("statement",) * 6 + ("negative",) * 2 + ("question",) * 2)


def asked(rng: random.Random, form: str) -> Subject:
    """A person; nobody asks what 我 or 我们 do."""
    subject = person(rng)
    while form == "question" and subject.zh[0] == "我" and subject.head in (subject.zh, "我"):
        subject = person(rng)
    return subject


def when(rng: random.Random, verb: Verb, tense: str, form: str) -> tuple[Phrase, Phrase]:
    """(time, frequency). Past and future always have a time: Chinese verbs do not say when."""
    if tense == "now":
        return pick(rng, (NOW, NOTHING)), NOTHING
    times = {"past": PAST, "habit": HABIT, "future": FUTURE, "want": FUTURE}.get(tense)
    if (
        not times
        or (tense, form) == ("habit", "negative")
        or (tense == "want" and rng.random() < 0.6)
    ):
        return NOTHING, NOTHING
    if tense == "habit" and rng.random() < 0.4:
        return NOTHING, pick(rng, FREQUENCIES[: 1 if form == "question" else None])
    return pick(rng, times if "y" in verb.tenses else times[:-2]), NOTHING


def event(rng: random.Random, form: str, tense: str = "", subject: Subject | None = None) -> Clause:
    """她昨天在学校看了三本书 -> she read three books at school yesterday."""
    verb = pick(rng, [verb for verb in VERBS if tense[:1] in verb.tenses])
    tense = tense or pick(rng, [name for name in TENSES if name[0] in verb.tenses])
    subject = subject or asked(rng, form)
    time, often = when(rng, verb, tense, form)
    if verb.zh == "去":
        action = journey(rng, verb)
    else:
        # Nobody never reads three books: 从来不 and its like take the objects of a negation.
        action = deed(rng, verb, tense, "negative" if often.zh else form)
    return render(subject, action, tense, form, time, often, plan=rng.random() < 0.5)


def journey(rng: random.Random, verb: Verb) -> Action:
    """坐火车去北京 -> go to Beijing by train."""
    zh, en = pick(rng, of_kind(PLACES, "go"))
    means = pick(rng, FAR if en.startswith("in ") and "the" not in en else NEAR)
    to = Phrase(zh, "to " + en.split(" ", 1)[1])
    return Action(verb.zh, verb.en, to, means if rng.random() < 0.3 else NOTHING, (zh,))


def deed(rng: random.Random, verb: Verb, tense: str, form: str) -> Action:
    """在学校看三本书; sometimes with two objects, 一个苹果和两个橙子."""
    nouns, places = nouns_of(verb.kinds), of_kind(PLACES, verb.places)
    target, heads = NOTHING, ("",)
    if nouns:
        noun, other = pick(rng, nouns), pick(rng, nouns)
        target, heads = object_phrase(rng, noun, tense, form), (noun.zh,)
        listed = tense in ("past", "future") and form != "negative" and rng.random() < 0.08
        if listed and other.measure and other != noun:
            second = counted(rng, other)
            target = Phrase(f"{target.zh}和{second.zh}", f"{target.en} and {second.en}")
            heads = (noun.zh, other.zh)
    place = pick(rng, places)
    if tense == "can" or (tense, form) == ("now", "negative") or rng.random() < 0.65:
        return Action(verb.zh, verb.en, target, heads=heads)
    return Action(verb.zh, verb.en, target, Phrase("在" + place.zh, place.en), heads)


def stative(rng: random.Random, form: str) -> Clause:
    """我有一只猫 -> I have a cat; 他没有猫 -> he doesn't have a cat; 她喜欢猫 -> she likes cats."""
    verb = pick(rng, STATIVES)
    noun, plain = pick(rng, nouns_of(verb.kinds)), form != "statement"
    if verb.en == "like":
        target = Phrase(*definite(rng, noun)[:2])
        if not noun.measure or rng.random() < 0.6:
            target = Phrase(noun.zh, bare(noun, ""))
    else:
        target = Phrase(noun.zh, bare(noun, "one")) if plain else counted(rng, noun)
    return render(
        asked(rng, form), Action(verb.zh, verb.en, target, heads=(noun.zh,)), "habit", form
    )


def feeling(
    rng: random.Random, form: str, subject: Subject | None = None, was: bool | None = None
) -> Clause:
    """她昨天很忙 -> she was busy yesterday. With `was` given there is no time of its own."""
    subject, adjective = subject or asked(rng, form), pick(rng, FEELINGS)
    time = NOTHING if was is not None else pick(rng, (TODAY, PAST[0], NOW, NOTHING))
    degree = pick(rng, DEGREES)
    if form != "statement":
        degree = Phrase("不" * (form == "negative"))
    words = " ".join(filter(None, (degree.en, adjective.en, time.en)))
    past_time = bool(was) or time == PAST[0]
    return be(subject, time.zh + degree.zh + adjective.zh, words, form, adjective.zh, was=past_time)


def quality(rng: random.Random, form: str) -> Clause:
    """这本书很贵 -> this book is expensive; 那把雨伞是红色的 -> that umbrella is red."""
    zh, en, kinds = pick(rng, ADJECTIVES)
    degree = pick(rng, DEGREES) if form == "statement" else Phrase("不" * (form == "negative"))
    subject = definite(rng, pick(rng, nouns_of(kinds, measured=True)))
    if zh.endswith("色"):
        return be(subject, f"{'不' * (form == 'negative')}是{zh}的", en, form, zh)
    return be(subject, degree.zh + zh, f"{degree.en} {en}".strip(), form, zh)


def identity(rng: random.Random, form: str) -> Clause:
    """他们是学生 -> they are students; 安娜是医生 -> Anna is a doctor."""
    subject, noun = asked(rng, form), pick(rng, nouns_of("job"))
    while subject.head in [job.zh for job in nouns_of("job person")]:
        subject = asked(rng, form)
    words = plural(noun.en) if subject.plural else indefinite(noun.en)
    return be(subject, f"{'不' * (form == 'negative')}是{noun.zh}", words, form, "是 " + noun.zh)


def this_is(rng: random.Random, form: str) -> Clause:
    """这是我的书 -> this is my book; 那是一只大象 -> that is an elephant."""
    noun = pick(rng, nouns_of(THINGS))
    what = noun_phrase(noun, possessor(rng), measured=False)
    if form == "statement" and rng.random() < 0.5:
        what = counted(rng, noun, one=True)
    this = pick(rng, (Phrase("这", "this"), Phrase("那", "that")))
    subject = Subject(*this, "he", False, this.zh)
    zh = f"{'不' * (form == 'negative')}是{what.zh}"
    return be(subject, zh, what.en, form, "是 " + noun.zh)


def whereabouts(rng: random.Random, form: str) -> Clause:
    """我的书在桌子上 -> my book is on the table; 他昨天不在家 -> he wasn't at home yesterday."""
    no = "不" * (form == "negative")
    if rng.random() < 0.5:
        zh, en, _ = pick(rng, PLACES)
        time = pick(rng, (NOW, PAST[0], PAST[4]))
        return be(
            asked(rng, form),
            f"{time.zh}{no}在{zh}",
            f"{en} {time.en}",
            form,
            "在" + zh,
            was=time != NOW,
        )
    zh, en, kinds = pick(rng, LOCATIONS)
    return be(definite(rng, pick(rng, nouns_of(kinds))), f"{no}在{zh}", en, form, "在" + zh)


def existence(rng: random.Random, form: str) -> Clause:
    """桌子上有两本书 -> there are two books on the table."""
    zh, en, kinds = pick(rng, LOCATIONS)
    noun = pick(rng, nouns_of(kinds))
    thing = counted(rng, noun) if form == "statement" else Phrase(noun.zh, indefinite(noun.en))
    one = thing.en.startswith(("a ", "an ")) and not thing.en.startswith("a lot")
    there = Subject("", "there", "he" if one else "you", not one, zh)
    clause = be(
        there,
        f"{'没' * (form == 'negative')}有{thing.zh}",
        f"{thing.en} {en}",
        form,
        "有 " + noun.zh,
    )
    return clause._replace(zh=zh + clause.zh)


def comparison(rng: random.Random, form: str) -> Clause:
    """这只猫比那只狗大 -> this cat is bigger than that dog; no negative form."""
    zh, en, kinds = pick(rng, COMPARED)
    if kinds == "people":
        subject, other = asked(rng, form), pick(rng, (*OBJECTIVES, *NAMES, kin(rng)))
    else:
        noun = pick(rng, nouns_of(kinds, measured=True))
        same = nouns_of(noun.kind, measured=True)
        subject, other = definite(rng, noun), Phrase(*definite(rng, pick(rng, same))[:2])
    while other.zh in (subject.zh, subject.zh[0]):
        other = pick(rng, NAMES)
    form = "statement" if form == "negative" else form
    return be(subject, f"比{other.zh}{zh}", f"{en} than {other.en}", form, f"比 {zh}")


def what_or_how_many(rng: random.Random, form: str) -> Clause:
    """你昨天买了什么 -> what did you buy yesterday; 你有几只猫 -> how many cats do you have."""
    if rng.random() < 0.3:
        verb, noun = STATIVES[0], pick(rng, nouns_of(STATIVES[0].kinds))
        target, lead, tense = (
            Phrase(f"几{noun.measure}{noun.zh}"),
            f"how many {plural(noun.en)}",
            "habit",
        )
        heads, time = (noun.zh,), NOTHING
    else:
        verb = pick(rng, [verb for verb in VERBS if verb.zh in "吃喝买卖画找学教"])
        target, lead, heads = Phrase("什么"), "what", ("什么",)
        tense = pick(rng, ("past", "future", "now"))
        time = when(rng, verb, tense, "question")[0]
    action = Action(verb.zh, verb.en, target, heads=heads)
    clause = render(asked(rng, "question"), action, tense, "question", time)
    return clause._replace(zh=clause.zh.removesuffix("吗"), en=f"{lead} {clause.en}")


def reason(rng: random.Random, form: str) -> Clause:
    """他没工作，因为他很累 -> he didn't work because he was tired; 他很累，所以… -> …, so …."""
    subject = pick(rng, list(PRONOUNS.values()))
    if form == "statement":
        wish = event(rng, form, "want", subject)
        return join(feeling(rng, form, subject, was=False), Phrase("，所以", ", so"), wish)
    effect = event(rng, pick(rng, ("statement", "negative")), "past", subject)
    cause = feeling(rng, "statement", subject, was=True)
    return join(effect, Phrase("，因为", " because"), cause)


def join(one: Clause, connective: Phrase, other: Clause) -> Clause:
    en = f"{one.en}{connective.en} {other.en}"
    return Clause(one.zh + connective.zh + other.zh, en, one.keys + other.keys)


# ------------------------------------------------------------------------------- sentences, splits
SIMPLE = (event,) * 8 + (stative,) * 4 + (feeling,) * 2 + (quality,) * 3 + (
    identity, this_is, whereabouts, existence, comparison, what_or_how_many)  # fmt: skip
CHAINED = (event, event, stative, stative, feeling, whereabouts, reason, reason, reason)


def compound(rng: random.Random, length: int) -> Clause:
    """`length` clauses joined by 但是 but, 而且 and, 而 while, of one rule or after a reason."""
    rule, forms = pick(rng, CHAINED), ("statement", "statement", "negative")
    whole = rule(rng, pick(rng, forms))
    for _ in range(length - 1 - (rule is reason)):
        other = event if rule is reason else rule
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


def sentence_pair(rng: random.Random, *, longer: bool = False) -> tuple[str, str]:
    """(Chinese, English) from the whole grammar, held-out combinations included."""
    return finish(sentence(rng, longer=longer), period=rng.random() < 0.75)


def pairs(split: str, *, size: int, seed: int = 0) -> list[tuple[str, str]]:
    """`size` different (Chinese, English) pairs, decided by (split, seed): more begin with fewer.

    Raises:
      ValueError: `split` is not one of SPLITS.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    rng, seen = random.Random(f"small world {split} {seed}"), {}
    while len(seen) < size:
        clause = sentence(rng, longer=split == "longer")
        period = rng.random() < 0.75
        if split in ("longer", split_of(clause.keys)) and clause.zh not in seen:
            seen[clause.zh] = finish(clause, period=period)
    return list(seen.values())
