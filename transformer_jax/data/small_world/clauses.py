"""The rules of the small world: each builds a clause in both languages, side by side.

A `form` is "statement", "negative" or "question"; a tense is a key of `lexicon.TENSES`.
"""

import random
from typing import NamedTuple

from transformer_jax.data.small_world import lexicon
from transformer_jax.data.small_world.lexicon import (
    BE,
    NOTHING,
    Phrase,
    Subject,
    Verb,
    indefinite,
    past,
    plural,
    progressive,
    third_person,
)
from transformer_jax.data.small_world.noun_phrases import (
    bare,
    counted,
    definite,
    kin,
    noun_phrase,
    nouns_of,
    object_phrase,
    of_kind,
    person,
    pick,
    possessor,
)


class Action(NamedTuple):
    """A verb, its object, and the place (or means) that Chinese puts before the verb."""

    zh: str
    en: str
    object: Phrase = NOTHING
    place: Phrase = NOTHING
    heads: tuple[str, ...] = ("",)


class Clause(NamedTuple):
    """`keys` are the combinations that the clause contains; they decide its split."""

    zh: str
    en: str
    keys: tuple[str, ...]
    question: bool = False


# ------------------------------------------------------------------------ verbs, and words in order
def conjugate(verb: str, tense: str, agree: str) -> tuple[str, str, str]:
    """(auxiliary, statement, after the auxiliary): ("does", "looks for", "look for")."""
    first, _, rest = verb.partition(" ")
    tail = " " + rest if rest else ""
    if tense == "want":
        return conjugate("want to " + verb, "habit", agree)
    if tense == "like":
        return conjugate(f"like {progressive(first)}{tail}", "habit", agree)
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
    negated = lexicon.NEGATED.get(auxiliary, auxiliary + "n't")
    return f"{subject} {negated} {plain}" if form == "negative" else f"{subject} {finite}"


def render(
    subject: Subject, action: Action, tense: str, form: str = "statement",
    time: Phrase = NOTHING, often: Phrase = NOTHING, plan: bool = False,
) -> Clause:  # fmt: skip
    """Chinese time, 不, place, verb, object is English verb, object, place, time.

    `plan` writes the future with 要 instead of 会.
    """
    marker = lexicon.TENSES[tense][form == "negative"]
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
    finite, plain = f"{often.en} {finite}".strip(), f"{often.en} {plain}".strip()
    verb = arrange(subject.en, auxiliary, finite, plain, form)
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


def join(one: Clause, connective: Phrase, other: Clause) -> Clause:
    """One clause, a connective, another clause."""
    en = f"{one.en}{connective.en} {other.en}"
    return Clause(one.zh + connective.zh + other.zh, en, one.keys + other.keys)


# -------------------------------------------------------------------------------------- ingredients
def some_form(rng: random.Random) -> str:
    """A random form; most clauses are statements."""
    return pick(rng, ("statement",) * 6 + ("negative",) * 2 + ("question",) * 2)


def not_(form: str) -> str:
    """不 in a negative clause."""
    return "不" * (form == "negative")


def subject_for(rng: random.Random, form: str) -> Subject:
    """A person; nobody asks what 我 or 我们 do."""
    subject = person(rng)
    while form == "question" and subject.zh[0] == "我" and subject.head in (subject.zh, "我"):
        subject = person(rng)
    return subject


def when(rng: random.Random, verb: Verb, tense: str, form: str) -> tuple[Phrase, Phrase]:
    """(time, frequency). Past and future always have a time: Chinese verbs do not show it."""
    if tense == "now":
        return pick(rng, (lexicon.NOW, NOTHING)), NOTHING
    times = {"past": lexicon.PAST, "habit": lexicon.HABIT, "future": lexicon.FUTURE,
             "want": lexicon.FUTURE}.get(tense)  # fmt: skip
    if not times or (tense, form) == ("habit", "negative"):
        return NOTHING, NOTHING
    if tense == "want" and rng.random() < 0.6:
        return NOTHING, NOTHING
    if tense == "habit" and rng.random() < 0.4:
        return NOTHING, pick(rng, lexicon.FREQUENCIES[: 1 if form == "question" else None])
    return pick(rng, times if "y" in verb.tenses else times[:-2]), NOTHING


def journey(rng: random.Random, verb: Verb) -> Action:
    """坐火车去北京 -> go to Beijing by train."""
    zh, en = pick(rng, of_kind(lexicon.PLACES, "go"))
    means = pick(rng, lexicon.FAR if en.startswith("in ") and "the" not in en else lexicon.NEAR)
    to = Phrase(zh, "to " + en.split(" ", 1)[1])
    return Action(verb.zh, verb.en, to, means if rng.random() < 0.3 else NOTHING, (zh,))


def deed(rng: random.Random, verb: Verb, tense: str, form: str) -> Action:
    """在学校看三本书; sometimes with two objects, 一个苹果和两个橙子."""
    nouns, places = nouns_of(verb.kinds), of_kind(lexicon.PLACES, verb.places)
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


# ------------------------------------------------------------------------------- kinds of clauses
def event(rng: random.Random, form: str, tense: str = "", subject: Subject | None = None) -> Clause:
    """她昨天在学校看了三本书 -> she read three books at school yesterday."""
    verb = pick(rng, [verb for verb in lexicon.VERBS if tense[:1] in verb.tenses])
    tense = tense or pick(rng, [name for name in lexicon.TENSES if name[0] in verb.tenses])
    subject = subject or subject_for(rng, form)
    time, often = when(rng, verb, tense, form)
    if verb.zh == "去":
        action = journey(rng, verb)
    else:
        # English never negates twice: 从来不 (never) and its like take the objects of a negation.
        action = deed(rng, verb, tense, "negative" if often.zh else form)
    return render(subject, action, tense, form, time, often, plan=rng.random() < 0.5)


def stative(rng: random.Random, form: str) -> Clause:
    """我有一只猫 -> I have a cat; 他没有猫 -> he doesn't have a cat; 她喜欢猫 -> she likes cats."""
    verb = pick(rng, lexicon.STATIVES)
    noun, plain = pick(rng, nouns_of(verb.kinds)), form != "statement"
    if verb.en == "like":
        target = Phrase(*definite(rng, noun)[:2])
        if not noun.measure or rng.random() < 0.6:
            target = Phrase(noun.zh, bare(noun, ""))
    else:
        target = Phrase(noun.zh, bare(noun, "one")) if plain else counted(rng, noun)
    action = Action(verb.zh, verb.en, target, heads=(noun.zh,))
    return render(subject_for(rng, form), action, "habit", form)


def feeling(
    rng: random.Random, form: str, subject: Subject | None = None, was: bool | None = None
) -> Clause:
    """她昨天很忙 -> she was busy yesterday. With `was` given there is no time of its own."""
    subject, adjective = subject or subject_for(rng, form), pick(rng, lexicon.FEELINGS)
    time = NOTHING
    if was is None:
        time = pick(rng, (lexicon.TODAY, lexicon.PAST[0], lexicon.NOW, NOTHING))
    degree = pick(rng, lexicon.DEGREES)
    if form != "statement":
        degree = Phrase(not_(form))
    words = " ".join(filter(None, (degree.en, adjective.en, time.en)))
    was = bool(was) or time == lexicon.PAST[0]
    return be(subject, time.zh + degree.zh + adjective.zh, words, form, adjective.zh, was=was)


def quality(rng: random.Random, form: str) -> Clause:
    """这本书很贵 -> this book is expensive; 那把雨伞是红色的 -> that umbrella is red."""
    zh, en, kinds = pick(rng, lexicon.ADJECTIVES)
    degree = pick(rng, lexicon.DEGREES) if form == "statement" else Phrase(not_(form))
    subject = definite(rng, pick(rng, nouns_of(kinds, measured=True)))
    if zh.endswith("色"):
        return be(subject, f"{not_(form)}是{zh}的", en, form, zh)
    return be(subject, degree.zh + zh, f"{degree.en} {en}".strip(), form, zh)


def identity(rng: random.Random, form: str) -> Clause:
    """他们是学生 -> they are students; 安娜是医生 -> Anna is a doctor."""
    subject, noun = subject_for(rng, form), pick(rng, nouns_of("job"))
    while subject.head in [job.zh for job in nouns_of("job person")]:
        subject = subject_for(rng, form)
    words = plural(noun.en) if subject.plural else indefinite(noun.en)
    return be(subject, f"{not_(form)}是{noun.zh}", words, form, "是 " + noun.zh)


def this_is(rng: random.Random, form: str) -> Clause:
    """这是我的书 -> this is my book; 那是一只大象 -> that is an elephant."""
    noun = pick(rng, nouns_of(lexicon.THINGS))
    what = noun_phrase(noun, possessor(rng), measured=False)
    if form == "statement" and rng.random() < 0.5:
        what = counted(rng, noun, one=True)
    this = pick(rng, (Phrase("这", "this"), Phrase("那", "that")))
    subject = Subject(*this, "he", False, this.zh)
    return be(subject, f"{not_(form)}是{what.zh}", what.en, form, "是 " + noun.zh)


def whereabouts(rng: random.Random, form: str) -> Clause:
    """我的书在桌子上 -> my book is on the table; 他昨天不在家 -> he wasn't at home yesterday."""
    if rng.random() < 0.5:
        zh, en, _ = pick(rng, lexicon.PLACES)
        time = pick(rng, (lexicon.NOW, lexicon.PAST[0], lexicon.PAST[4]))
        zh, words = "在" + zh, f"{en} {time.en}"
        predicate, was = f"{time.zh}{not_(form)}{zh}", time != lexicon.NOW
        return be(subject_for(rng, form), predicate, words, form, zh, was=was)
    zh, en, kinds = pick(rng, lexicon.LOCATIONS)
    subject = definite(rng, pick(rng, nouns_of(kinds)))
    return be(subject, f"{not_(form)}在{zh}", en, form, "在" + zh)


def existence(rng: random.Random, form: str) -> Clause:
    """桌子上有两本书 -> there are two books on the table."""
    zh, en, kinds = pick(rng, lexicon.LOCATIONS)
    noun = pick(rng, nouns_of(kinds))
    thing = counted(rng, noun) if form == "statement" else Phrase(noun.zh, indefinite(noun.en))
    one = thing.en.startswith(("a ", "an ")) and not thing.en.startswith("a lot")
    there = Subject("", "there", "he" if one else "you", not one, zh)
    predicate = f"{'没' * (form == 'negative')}有{thing.zh}"
    clause = be(there, predicate, f"{thing.en} {en}", form, "有 " + noun.zh)
    return clause._replace(zh=zh + clause.zh)


def comparison(rng: random.Random, form: str) -> Clause:
    """这只猫比那只狗大 -> this cat is bigger than that dog; no negative form."""
    zh, en, kinds = pick(rng, lexicon.COMPARED)
    if kinds == "people":
        subject = subject_for(rng, form)
        other = pick(rng, (*lexicon.OBJECTIVES, *lexicon.NAMES, kin(rng)))
    else:
        noun = pick(rng, nouns_of(kinds, measured=True))
        same = nouns_of(noun.kind, measured=True)
        subject, other = definite(rng, noun), Phrase(*definite(rng, pick(rng, same))[:2])
    while other.zh in (subject.zh, subject.zh[0]):
        other = pick(rng, lexicon.NAMES)
    form = "statement" if form == "negative" else form
    return be(subject, f"比{other.zh}{zh}", f"{en} than {other.en}", form, f"比 {zh}")


def what_or_how_many(rng: random.Random, form: str) -> Clause:
    """你昨天买了什么 -> what did you buy yesterday; 你有几只猫 -> how many cats do you have."""
    if rng.random() < 0.3:
        verb, tense, time = lexicon.STATIVES[0], "habit", NOTHING
        noun = pick(rng, nouns_of(verb.kinds))
        target, lead = Phrase(f"几{noun.measure}{noun.zh}"), f"how many {plural(noun.en)}"
        heads = (noun.zh,)
    else:
        verb = pick(rng, [verb for verb in lexicon.VERBS if verb.zh in "吃喝买卖画找学教"])
        target, lead, heads = Phrase("什么"), "what", ("什么",)
        tense = pick(rng, ("past", "future", "now"))
        time = when(rng, verb, tense, "question")[0]
    action = Action(verb.zh, verb.en, target, heads=heads)
    clause = render(subject_for(rng, "question"), action, tense, "question", time)
    return clause._replace(zh=clause.zh.removesuffix("吗"), en=f"{lead} {clause.en}")


def reason(rng: random.Random, form: str) -> Clause:
    """他没工作，因为他很累 -> he didn't work because he was tired; 他很累，所以… -> …, so …."""
    subject = pick(rng, list(lexicon.PRONOUNS.values()))
    if form == "statement":
        wish = event(rng, form, "want", subject)
        return join(feeling(rng, form, subject, was=False), Phrase("，所以", ", so"), wish)
    effect = event(rng, pick(rng, ("statement", "negative")), "past", subject)
    cause = feeling(rng, "statement", subject, was=True)
    return join(effect, Phrase("，因为", " because"), cause)
