"""The small world: a function from Chinese to English, with held-out combinations."""

import itertools
import re

import pytest

from transformer_jax.data.small_world import clauses, grammar, lexicon, noun_phrases
from transformer_jax.data.small_world.lexicon import NOTHING, Phrase

TRAIN_SIZE = 60_000
PRONOUN = lexicon.PRONOUNS
BOOKS = Phrase("三本书", "three books")
SCHOOL = Phrase("在学校", "at school")
YESTERDAY = Phrase("昨天", "yesterday")


def bare_form(sentence):
    return sentence.rstrip("。？.?")


def words_of(sentence):
    return bare_form(sentence).replace(",", "").split()


@pytest.fixture(scope="module")
def train():
    return grammar.pairs("train", size=TRAIN_SIZE)


@pytest.fixture(scope="module")
def others():
    """{(split, seed): 2,003 pairs}, with the train of another seed."""
    cases = [("train", 1), ("valid", 0), ("test", 0), ("test", 5), ("longer", 0), ("longer", 3)]
    return {case: grammar.pairs(case[0], size=2003, seed=case[1]) for case in cases}


@pytest.fixture(scope="module")
def english(train, others):
    return [en for pairs in (train, *others.values()) for _, en in pairs]


@pytest.mark.parametrize("split", grammar.SPLITS)
def test_a_shorter_list_begins_a_longer_one(split):
    assert grammar.pairs(split, size=17, seed=2) == grammar.pairs(split, size=101, seed=2)[:17]
    assert grammar.pairs(split, size=17, seed=2) != grammar.pairs(split, size=17, seed=3)
    assert grammar.pairs(split, size=0) == []


# --------------------------------------------------------------------------------------- splits
def test_no_sentence_repeats_and_splits_are_disjoint_whatever_the_seed(train, others):
    seen = {}
    for (split, _), pairs in {("train", 0): train, **others}.items():
        sentences = {bare_form(zh) for zh, _ in pairs}
        assert len(sentences) == len(pairs)
        seen.setdefault(split, set()).update(sentences)
    for one, other in itertools.combinations(seen, 2):
        assert not seen[one] & seen[other], (one, other)


def combinations(sentence):
    """The (pronoun, 买 or 吃 or 有, noun) of each clause, read off the Chinese by another route."""
    kin = "|".join(entry.zh for entry in lexicon.KIN)
    nouns = sorted((entry.zh for entry in lexicon.NOUNS), key=len, reverse=True)
    for clause in re.split("，(?:但是|而且|而|因为|所以)", bare_form(sentence).rstrip("吗")):
        pattern = f"([我你他她]们?)(?!和|的|{kin}).*?((?<!好)[买吃有])(?!意思)(.+)"
        if not (match := re.fullmatch(pattern, clause)) or "有时候" in clause:
            continue
        for part in re.split("和(?!.*的)", match[3]):
            for noun in [noun for noun in nouns if part.endswith(noun)][:1]:
                yield f"{match[1]} {match[2]} {noun}"


def test_held_out_combinations_are_unseen_even_inside_compounds(train):
    found = [(zh, key) for zh, _ in train for key in combinations(zh)]
    assert len(found) > 2000
    assert [pair for pair in found if grammar.split_of([pair[1]]) != "train"] == []


def test_the_key_decides_the_split():
    assert grammar.split_of(["我 有 猫"]) == "test"
    keys = [f"她 看 {number}" for number in range(5000)]
    buckets = [grammar.split_of([key]) for key in keys]
    assert 0.03 < buckets.count("test") / 5000 < 0.05
    assert 0.03 < buckets.count("valid") / 5000 < 0.05
    in_test, in_train = keys[buckets.index("test")], keys[buckets.index("train")]
    assert grammar.split_of([in_train, in_test]) == "test"
    with pytest.raises(ValueError, match=r"split='dev' is not one of train, valid, test, longer"):
        grammar.pairs("dev", size=1)


def test_longer_is_strictly_longer_and_every_word_of_it_occurs_in_training(train, others):
    assert max(len(bare_form(zh)) for zh, _ in train) <= grammar.MAX_CHARACTERS
    assert max(len(words_of(en)) for _, en in train) <= grammar.MAX_WORDS
    for zh, en in (*others["longer", 0], *others["longer", 3]):
        assert len(bare_form(zh)) > grammar.MAX_CHARACTERS + 1  # even beyond X。
        assert len(words_of(en)) > grammar.MAX_WORDS
    known_en = {word for _, en in train for word in words_of(en)}
    known_zh = {character for zh, _ in train for character in zh}
    for pairs in others.values():
        for zh, en in pairs:
            assert set(zh) <= known_zh, zh
            assert set(words_of(en)[1:]) <= known_en, en
            assert {words_of(en)[0]} <= known_en | {word.title() for word in known_en}, en


# -------------------------------------------------------------------------------------- mapping
def test_chinese_decides_english_and_its_punctuation(train, others):
    meaning = {}
    for pairs in (train, *others.values()):
        for zh, en in pairs:
            assert meaning.setdefault(bare_form(zh), bare_form(en)) == bare_form(en), zh
    ends = {"。": ".", "？": "?"}
    for zh, en in train:
        assert ends.get(zh[-1], "") == (en[-1] if en[-1] in ".?" else "")
        assert ("吗" in zh or "什么" in zh or "几" in zh) == (zh[-1] == "？")
    statements = [zh for zh, _ in train if zh[-1] != "？"]
    assert 0.23 < sum(zh[-1] != "。" for zh in statements) / len(statements) < 0.27


def test_both_languages_have_250_words_and_use_them(train, english):
    spoken = {word.lower() for en in english for word in words_of(en)}
    assert len(spoken) >= 250
    tables = [
        *(lexicon.NOUNS, lexicon.VERBS, lexicon.STATIVES, lexicon.PLACES, lexicon.ADJECTIVES),
        *(lexicon.FEELINGS, lexicon.COMPARED, lexicon.PAST, lexicon.HABIT, lexicon.FUTURE),
        *(lexicon.FREQUENCIES, lexicon.NUMBERS, lexicon.NAMES, lexicon.KIN, lexicon.DEGREES),
        *(lexicon.PRONOUNS.values(), lexicon.FAR),
    ]
    written = {row[0] for table in tables for row in table}
    assert len(written) >= 250
    text = "".join(zh for zh, _ in train)
    assert [word for word in written if word not in text] == []
    words = {word for table in tables for row in table for word in str(row[1]).lower().split()}
    words = {word.split("=")[0] for word in words}
    assert words - spoken <= {"the"}, words - spoken


# ---------------------------------------------------------------------------- rules, by hand
def noun(en):
    return next(entry for entry in lexicon.NOUNS if entry.en == en)


def render(subject, verb, target, tense, form="statement", time=NOTHING, place=NOTHING):
    action = clauses.Action(*verb, target, place)
    return grammar.finish(clauses.render(PRONOUN[subject], action, tense, form, time))


READ, HAVE, GO, LIKE = ("看", "read"), ("有", "have"), ("去", "go"), ("喜欢", "like")
CAT, CATS = Phrase("猫", "a cat"), Phrase("猫", "cats")
DAILY, TOMORROW = Phrase("每天", "every day"), Phrase("明天", "tomorrow")
TO_SCHOOL = Phrase("学校", "to school")


@pytest.mark.parametrize(
    ("words", "zh", "en"),
    [
        (("她", READ, BOOKS, "past", "statement", YESTERDAY, SCHOOL),
         "她昨天在学校看了三本书。", "She read three books at school yesterday."),
        (("她", READ, BOOKS, "past", "question", YESTERDAY, SCHOOL),
         "她昨天在学校看了三本书吗？", "Did she read three books at school yesterday?"),
        (("她", READ, Phrase("书", "books"), "past", "negative", YESTERDAY, SCHOOL),
         "她昨天没在学校看书。", "She didn't read books at school yesterday."),
        (("他", READ, Phrase("书", "books"), "habit", "statement", DAILY),
         "他每天看书。", "He reads books every day."),
        (("我们", READ, Phrase("书", "books"), "habit", "question", DAILY),
         "我们每天看书吗？", "Do we read books every day?"),
        (("他", READ, Phrase("书", "books"), "habit", "negative"),
         "他不看书。", "He doesn't read books."),
        (("我", READ, Phrase("书", "a book"), "now"),
         "我正在看书。", "I am reading a book."),
        (("我", READ, Phrase("书", "a book"), "now", "negative"),
         "我没在看书。", "I am not reading a book."),
        (("她们", READ, Phrase("书", "a book"), "now", "statement", lexicon.NOW, SCHOOL),
         "她们现在正在学校看书。", "They are reading a book at school now."),
        (("他", GO, TO_SCHOOL, "future", "statement", TOMORROW),
         "他明天会去学校。", "He will go to school tomorrow."),
        (("他", GO, TO_SCHOOL, "future", "negative", TOMORROW),
         "他明天不会去学校。", "He won't go to school tomorrow."),
        (("他", GO, TO_SCHOOL, "future", "question", TOMORROW),
         "他明天会去学校吗？", "Will he go to school tomorrow?"),
        (("他", GO, TO_SCHOOL, "past", "statement", YESTERDAY),
         "他昨天去了学校。", "He went to school yesterday."),
        (("我", GO, TO_SCHOOL, "want"), "我想去学校。", "I want to go to school."),
        (("她", GO, TO_SCHOOL, "want", "negative"),
         "她不想去学校。", "She doesn't want to go to school."),
        (("我", HAVE, Phrase("一只猫", "a cat"), "habit"), "我有一只猫。", "I have a cat."),
        (("他", HAVE, Phrase("一只猫", "a cat"), "habit"), "他有一只猫。", "He has a cat."),
        (("他", HAVE, CAT, "habit", "negative"), "他没有猫。", "He doesn't have a cat."),
        (("你", HAVE, CAT, "habit", "question"), "你有猫吗？", "Do you have a cat?"),
        (("她", LIKE, CATS, "habit"), "她喜欢猫。", "She likes cats."),
        (("你们", ("听", "listen to"), Phrase("音乐", "music"), "like"),
         "你们喜欢听音乐。", "You like listening to music."),
        (("他", ("游泳", "swim"), NOTHING, "can", "negative"),
         "他不会游泳。", "He can't swim."),
        (("他", ("散步", "take a walk"), NOTHING, "habit", "statement", DAILY),
         "他每天散步。", "He takes a walk every day."),
        (("她", ("跑步", "run"), NOTHING, "past", "statement", YESTERDAY),
         "她昨天跑步了。", "She ran yesterday."),
    ],
)  # fmt: skip
def test_a_clause_in_both_languages(words, zh, en):
    assert render(*words) == (zh, en)


def test_a_statement_may_have_no_period():
    action = clauses.Action(*HAVE, Phrase("一只猫", "a cat"))
    clause = clauses.render(PRONOUN["我"], action, "habit")
    assert grammar.finish(clause, period=False) == ("我有一只猫", "I have a cat")


@pytest.mark.parametrize(
    ("en", "determiner", "many", "expected"),
    [
        ("cat", ("一", "a"), False, ("一只猫", "a cat")),
        ("dog", ("两", "two"), True, ("两条狗", "two dogs")),
        ("elephant", ("一", "a"), False, ("一头大象", "an elephant")),
        ("umbrella", ("一", "a"), False, ("一把雨伞", "an umbrella")),
        ("police officer", ("三", "three"), True, ("三个警察", "three police officers")),
        ("tea", ("一", "a"), False, ("一杯茶", "a cup of tea")),
        ("bread", ("这两", "these two"), True, ("这两块面包", "these two pieces of bread")),
        ("milk", ("五", "five"), True, ("五杯牛奶", "five glasses of milk")),
    ],
)
def test_measure_words(en, determiner, many, expected):
    assert noun_phrases.noun_phrase(noun(en), Phrase(*determiner), many=many) == expected


@pytest.mark.parametrize(
    ("adjective", "expected"),
    [
        (("旧", "old"), ("一本旧书", "an old book")),
        (("有意思", "interesting"), ("一本有意思的书", "an interesting book")),
        (("红色", "red"), ("一本红色的书", "a red book")),
        (("贵", "expensive"), ("一本贵的书", "an expensive book")),
    ],
)
def test_attributes(adjective, expected):
    one, how = Phrase("一", "a"), Phrase(*adjective)
    assert noun_phrases.noun_phrase(noun("book"), one, adjective=how) == expected


FORMS = """read reads read reading; watch watches watched watching; eat eats ate eating;
drink drinks drank drinking; buy buys bought buying; sell sells sold selling;
write writes wrote writing; make makes made making; do does did doing; wash washes washed washing;
listen listens listened listening; sing sings sang singing; draw draws drew drawing;
feed feeds fed feeding; ride rides rode riding; drive drives drove driving; fix fixes fixed fixing;
take takes took taking; study studies studied studying; teach teaches taught teaching;
speak speaks spoke speaking; play plays played playing; look looks looked looking;
wait waits waited waiting; help helps helped helping; see sees saw seeing;
sleep sleeps slept sleeping; cook cooks cooked cooking; run runs ran running;
fish fishes fished fishing; swim swims swam swimming; dance dances danced dancing;
chat chats chatted chatting; rest rests rested resting; work works worked working;
travel travels traveled traveling; go goes went going; have has had having;
like likes liked liking; want wants wanted wanting; need needs needed needing"""
PLURALS = """apple apples; orange oranges; tomato tomatoes; potato potatoes; egg eggs;
strawberry strawberries; sandwich sandwiches; mouse mice; sheep sheep; fish fish; monkey monkeys;
bus buses; taxi taxis; photo photos; knife knives; leaf leaves; key keys; box boxes; watch watches;
dictionary dictionaries; child children; man men; woman women; boy boys; actor actors; panda pandas;
glass glasses; piece pieces; house houses; lawyer lawyers"""


def test_every_verb_form_and_plurals_by_hand():
    forms = [row.split() for row in FORMS.split(";")]
    verbs = {verb.en.split()[0] for verb in (*lexicon.VERBS, *lexicon.STATIVES)}
    assert {row[0] for row in forms} == verbs
    for verb, third, past, progressive in forms:
        assert lexicon.third_person(verb) == third
        assert lexicon.past(verb) == past
        if verb != "see":
            assert lexicon.progressive(verb) == progressive
    for singular, plural in (row.split() for row in PLURALS.split(";")):
        assert lexicon.plural(singular) == plural


# ------------------------------------------------------------------------ agreement in the large
NEVER = [
    r"\ban? (two|these|those|my|the|a|an)\b",
    r"\ba [aeiou]", r"\ban [^aeiou]", r"[a-z]  ", r" ,", r",\S", r"^[a-z]", r"\bi\b",
    r"^(He|She|(My|Your|His|Her) (older |younger )?(mother|father|uncle|brother|sister)) "
    r"(have|do|are|were|am|go|want|like|need|don't|aren't|weren't|eat|buy)\b",
    r"\b(I|you|we|they) (has|does|is|wants|likes|needs|doesn't|isn't|goes|reads|eats)\b",
    r"\b(you|we|they) (was|wasn't)\b", r"\b(do|did|does|will|can) \S+ (has|went|likes|is)\b",
    r"\b(didn't|don't|doesn't|won't|can't) \w+(ed|ing)\b(?<!need)(?<!feed)(?<!sing)",
    r"\b(didn't|don't|doesn't|won't|can't) (ate|drank|bought|has|went|saw|sang|drew|wrote)\b",
    r"\b(childs|mans|womans|mouses|sheeps|knifes|leafs|fishs|breads|rices|waters|furnitures)\b",
    r"\b(two|three|four|five|six|seven|eight|nine|ten|these|those|a lot of) "
    r"(cat|dog|book|apple|child|man|woman|mouse|knife|box|bus|watch|strawberry|cup|piece)\b",
    r"\b(this|that|a|an) (cats|dogs|books|children|men|women|mice|knives|boxes|buses|cups)\b",
    r"[Tt]here is (two|three|four|five|six|seven|eight|nine|ten|a lot)",
    r"[Tt]here are an? (?!lot)",
    r"\b(yesterday|last)\b.*\b(reads|eats|is reading)\b", r"\b(\w+) \1\b",
]  # fmt: skip


@pytest.mark.parametrize("pattern", NEVER)
def test_never_in_english(english, pattern):
    simple = [en for en in english if "," not in en or pattern.startswith((r" ,", r",\S"))]
    wrong = [en for en in simple if re.search(pattern, en)]
    assert wrong == []


def test_every_tense_agrees_with_its_marker(train):
    for zh, en in train:
        if "，" in zh or "什么" in zh:
            continue
        if re.search("正在|没在", zh) and "没在家" not in zh and "昨" not in zh:
            assert re.search(r"\b\w+ing\b|\bdidn't\b", en), (zh, en)
        if re.search("昨天|前天|上个|去年", zh):
            assert not re.search(r"\b(is|are|am|does|do|will)\b(?! homework)", en), (zh, en)
        if re.search("明天|后天|明年(?!轻)|下个|今天晚上", zh):
            assert re.search(r"\b(will|Will|won't|wants?|want)\b", en), (zh, en)
        if re.match("(他|她)(没有|不)", zh) and not re.match(".(妈|爸|哥|弟|姐|妹|叔|爷|奶)", zh):
            assert re.match(r"(He|She) (doesn't|isn't|wasn't|can't)\b", en), (zh, en)
        assert "二" not in zh, "before a measure word two is 两"
