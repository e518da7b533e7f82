"""Comparing two workdirs: a better system is found, noise is not, other sentences are refused."""

import json
import random
import re

import pytest
import sacrebleu
from launching import refused

from transformer_jax.config.files import save_config
from transformer_jax.config.options import Config
from transformer_jax.evaluation.comparison import compare
from transformer_jax.evaluation.scores import corpus_scores
from transformer_jax.evaluation.translations import write_translations

WORDS = [a + b for a in ("ka", "lo", "mi", "nu") for b in ("d", "f", "rt", "s")]


def sentences(count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(5, 11))) for _ in range(count)]


def spoiled(references, share, seed):
    """The references with that share of their words replaced."""
    rng = random.Random(seed)
    return [
        " ".join("wrong" if rng.random() < share else word for word in reference.split())
        for reference in references
    ]


REFERENCES = sentences(131, seed=0)
SOURCES = [f"quelle {number}" for number in range(131)]


def evaluated(workdir, translations, references=REFERENCES, sources=SOURCES, **about):
    """A workdir as training and --mode=evaluate leave it."""
    language, config = about.pop("language", "en"), about.pop("config", None)
    workdir.mkdir(parents=True, exist_ok=True)
    save_config(config or Config(name=workdir.name), workdir / "config.json")
    scores = corpus_scores(translations, references, target_language=language, bootstrap=0)
    about = {"split": "test", "weights": "average", "steps": [3, 5], "decode": {}} | about
    folder = workdir / "evaluation" / about.pop("folder", "test")
    write_translations(folder, scores, sources, translations, references, **about)
    return workdir


def pair(tmp_path, *translations, texts=(REFERENCES, SOURCES), **options):
    return [
        evaluated(tmp_path / name, of_name, *texts, **options)
        for name, of_name in zip("ab", translations, strict=True)
    ]


def table(text):
    """{"BLEU": (of A, of B, difference, p), …}."""
    number = r"([-+]?[\d.]+)"
    row = rf"^(BLEU|chrF2\+\+) +{number} ± [\d.]+ +{number} ± [\d.]+ +{number} +{number} "
    return {name: tuple(map(float, rest)) for name, *rest in re.findall(row, text, re.M)}


# ------------------------------------------------------------------------------------------ scores
@pytest.mark.parametrize("swapped", [False, True])
def test_a_better_system_is_found(tmp_path, swapped):
    a, b = pair(tmp_path, spoiled(REFERENCES, 0.3, seed=1), spoiled(REFERENCES, 0.1, seed=2))
    found = table(compare(b, a, split="test") if swapped else compare(a, b, split="test"))
    for _, _, difference, p in found.values():
        assert abs(difference) > 10
        assert (difference < 0) == swapped, "B minus A"
        assert p < 0.01
    assert list(found) == ["BLEU", "chrF2++"]


def test_noise_and_equal_translations_are_no_difference(tmp_path):
    a, b = pair(tmp_path, spoiled(REFERENCES, 0.2, seed=1), spoiled(REFERENCES, 0.2, seed=2))
    for _, _, difference, p in table(compare(a, b, split="test")).values():
        assert 0 < abs(difference) < 3
        assert p > 0.1
    text = compare(*pair(tmp_path / "equal", REFERENCES, REFERENCES), split="test")
    assert "translate every sentence alike" in text
    assert "no option differs" in text
    assert table(text) == {}
    assert "improved" not in text
    assert "too few" not in text


def test_the_scores_are_those_of_evaluation_and_the_p_that_of_koehn(tmp_path):
    """p from resamples drawn here, centred on their mean, as Koehn 2004 and sacrebleu do."""
    worse, better = spoiled(REFERENCES, 0.2, seed=1), spoiled(REFERENCES, 0.17, seed=5)
    a, b = pair(tmp_path, worse, better)
    found = table(compare(a, b, split="test"))["BLEU"]

    def bleu(translations, rows):
        picked = [REFERENCES[n] for n in rows]
        return sacrebleu.corpus_bleu([translations[n] for n in rows], [picked]).score

    of_a, of_b = (bleu(side, range(131)) for side in (worse, better))
    assert found[:3] == pytest.approx((of_a, of_b, of_b - of_a), abs=0.051)
    rng = random.Random(3)
    draws = [rng.choices(range(131), k=131) for _ in range(151)]
    gaps = [abs(bleu(better, rows) - bleu(worse, rows)) for rows in draws]
    mean = sum(gaps) / len(gaps)
    p = sum(gap - mean > abs(of_b - of_a) for gap in gaps) / len(gaps)
    assert found[3] == pytest.approx(p, abs=0.05)
    assert 0.002 < found[3] < 0.5


def test_intervals_are_those_of_evaluation(tmp_path):
    a, b = pair(tmp_path, spoiled(REFERENCES, 0.3, seed=1), spoiled(REFERENCES, 0.1, seed=2))
    of_a = corpus_scores(spoiled(REFERENCES, 0.3, seed=1), REFERENCES, target_language="en")
    text = compare(a, b, split="test")
    assert f"BLEU      {of_a.bleu:.1f} ± {of_a.bleu_interval:.1f} " in text
    assert f"chrF2++   {of_a.chrf:.1f} ± {of_a.chrf_interval:.1f} " in text
    assert "bs:1000|seed:12345" in text
    assert compare(a, b, split="test") == text


def test_systems_that_match_hardly_anything(tmp_path):
    """Of some resamples chrF is a float, of some a float32, which is why `scores.ChrF` exists."""
    references = ["I have a cat"] * 7
    poor = ["I have no dog", *["x y z w"] * 6]
    a, b = pair(tmp_path, poor, poor[::-1], texts=(references, SOURCES[:7]))
    text = compare(a, b, split="test")
    assert "7 sentences are too few to rely on p" in text
    assert len(re.findall(r" \+0.0 +- ", text)) == 2, "equal scores have no p"
    a = evaluated(tmp_path / "c", ["zzz"] * 7, references, SOURCES[:7])
    assert table(compare(a, b, split="test"))["chrF2++"][2] > 0


def test_chinese_is_counted_by_characters(tmp_path):
    references = ["她昨天在学校看了两本书。", "我有一只猫。"] * 5
    worse = ["她昨天在学校看了三本书。", "我有一只狗。"] * 5
    a, b = pair(tmp_path, worse, references, texts=(references, SOURCES[:10]), language="zh")
    text = compare(a, b, split="test")
    expected = sacrebleu.corpus_bleu(worse, [references], tokenize="zh").score
    assert table(text)["BLEU"][0] == pytest.approx(expected, abs=0.051)
    assert "tok:zh" in text


# ---------------------------------------------------------------------- options and sentences
def test_options_that_differ(tmp_path):
    config = Config(name="b", demo="hello")
    config.model.d_ff, config.decode.beam_size = 48, 7
    decode = {"beam_size": 4, "method": "beam"}
    a = evaluated(tmp_path / "a", REFERENCES, decode=decode)
    about = {"weights": "best", "steps": [5], "ensemble": ["runs/c"], "degeneracy": {"empty": 0.5}}
    about["decode"] = decode | {"method": "greedy"}
    b = evaluated(tmp_path / "b", REFERENCES, config=config, **about)
    _, listed = compare(a, b, split="test").split("options that differ:\n")
    assert listed.splitlines() == [
        "  model.d_ff: 2048 in A, 48 in B",
        "  decode.method: 'beam' in A, 'greedy' in B",
        "  weights: 'average' in A, 'best' in B",
        "  steps: [3, 5] in A, [5] in B",
        "  ensemble: none in A, ['runs/c'] in B",
    ], "decode.beam_size was 4 in both, whatever B's configuration has; names do not matter"


def test_the_sentences_that_changed_most_are_shown(tmp_path):
    start, better, worse = REFERENCES[:], REFERENCES[:], REFERENCES[:]
    for n in range(7):  # the higher n, the more words are wrong
        wrong = " ".join(["wrong"] * (n + 1) + REFERENCES[n + 20].split()[n + 1 :])
        start[n + 20], worse[n + 60] = wrong, wrong
    start[19], better[19] = "equally wrong", "wrong equally"
    translations = [better[n] if n < 40 else worse[n] for n in range(131)]
    a, b = pair(tmp_path, start, translations)
    improved, worsened = compare(a, b, split="test").split("\n\n")[-2:]
    assert improved.startswith("improved most from A to B, by chrF2++ of the sentence (7 improved)")
    assert worsened.startswith("worsened most from A to B, by chrF2++ of the sentence (7 worsened)")
    for block, sign in ((improved, 1), (worsened, -1)):
        numbers = [float(x) for x in re.findall(r"^  ([-+]\d+\.\d)  quelle", block, re.M)]
        assert len(numbers) == 5
        assert all(number * sign > 0 for number in numbers)
        assert numbers == sorted(numbers, reverse=sign > 0)
    (shown,) = re.findall(
        r"  ([-+].*  quelle 26\n    A: .*\n    B: .*\n    reference: .*)", improved
    )
    delta = 100 - sacrebleu.sentence_chrf(start[26], [REFERENCES[26]], word_order=2).score
    assert shown.splitlines() == [
        f"+{delta:.1f}  quelle 26",
        f"    A: {start[26]}",
        f"    B: {REFERENCES[26]}",
        f"    reference: {REFERENCES[26]}",
    ]


def test_line_separators_within_a_sentence(tmp_path):
    odd = ["one\u2028two", "three\u0085", *REFERENCES[2:]]
    a, b = pair(tmp_path, REFERENCES, spoiled(REFERENCES, 0.2, seed=1), texts=(odd, SOURCES))
    assert "131 sentences" in compare(a, b, split="test")


# ------------------------------------------------------------------------ before and after tuning
def test_two_texts_are_in_one_table(tmp_path):
    """What is gained on the new text, and what is forgotten of the old one."""
    old, new = (REFERENCES, SOURCES), (sentences(103, seed=7), [f"neu {n}" for n in range(103)])
    forgets, learns = (0.1, 0.3), (0.4, 0.2)  # the share of wrong words before and after
    on_old = [spoiled(old[0], share, seed) for seed, share in enumerate(forgets)]
    on_new = [spoiled(new[0], share, seed) for seed, share in enumerate(learns)]
    a = evaluated(tmp_path / "a", on_old[0], *old)
    b = evaluated(tmp_path / "b", on_new[1], *new)
    evaluate = f"python launch.py --mode=evaluate --workdir={b} --split=test --sentences_of={a}"
    assert f"131 sentences in {a} and 103 in {b}: " in refusal(a, b)
    assert evaluate in refusal(a, b)
    evaluated(b, on_old[1], *old, folder="test-of-a")
    assert evaluate not in refusal(a, b)
    evaluated(a, on_new[0], *new, folder="test-of-b")
    text = compare(a, b, split="test")
    assert text.startswith("test of A, 131 sentences; test of B, 103 sentences\n")
    for name, translations, (references, sources) in (("A", on_old, old), ("B", on_new, new)):
        alone = pair(tmp_path / name, *translations, texts=(references, sources))
        rows = re.sub(rf"^test of {name}  ", "", text, flags=re.M)
        assert table(rows) == table(compare(*alone, split="test"))
    assert text.index("test of A  chrF2++") < text.index("test of B  BLEU")
    assert "test of A: worsened most from A to B" in text
    assert "test of B: improved most from A to B" in text
    assert "p: the probability" in text and text.count("p: the probability") == 1


# ----------------------------------------------------------------------------------------- refusals
def refusal(a, b, split="test"):
    return refused(compare, a, b, split=split)


def test_a_workdir_that_is_not_evaluated(tmp_path):
    a, b = pair(tmp_path, REFERENCES, REFERENCES)
    command = f"python launch.py --mode=evaluate --workdir={a} --split="
    assert refusal(a, b, "valid") == f"{a} has not been evaluated on valid: {command}valid"
    assert refusal(a, b, "test-ensemble").endswith(f"{command}test --ensemble=…")
    (b / "evaluation" / "test" / "translations.jsonl").unlink()
    assert f"{b} has not been evaluated on test" in refusal(a, b)
    assert "is not a workdir" in refusal(a, tmp_path / "nowhere")


def test_different_sentences(tmp_path):
    a = evaluated(tmp_path / "a", REFERENCES)
    fewer = evaluated(tmp_path / "fewer", REFERENCES[:7], REFERENCES[:7], SOURCES[:7])
    assert f"131 sentences in {a} and 7 in {fewer}: evaluate both" in refusal(a, fewer)
    others = [*SOURCES[:3], "andere", *SOURCES[4:]]
    other_sources = evaluated(tmp_path / "sources", REFERENCES, REFERENCES, others)
    assert "the source of sentence 4 is 'quelle 3' in" in refusal(a, other_sources)
    edited = [*REFERENCES[:-1], "edited"]
    other_references = evaluated(tmp_path / "references", REFERENCES, edited)
    assert f"the reference of sentence 131 is {REFERENCES[-1]!r} in" in refusal(a, other_references)


def test_different_tokenizers_of_bleu(tmp_path):
    a = evaluated(tmp_path / "a", REFERENCES)
    b = evaluated(tmp_path / "b", REFERENCES, language="zh")
    assert f"BLEU uses the tokenizer 13a in {a} and zh in {b}: evaluate both" in refusal(a, b)


@pytest.mark.parametrize("damage", ["{", "[]", "{}", json.dumps({"bleu_signature": "?"})])
def test_damaged_scores(tmp_path, damage):
    a, b = pair(tmp_path, REFERENCES, REFERENCES)
    (b / "evaluation" / "test" / "scores.json").write_text(damage)
    assert f"{b / 'evaluation' / 'test'} is damaged" in refusal(a, b)
