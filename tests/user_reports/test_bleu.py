"""BLEU that means less than it seems to, as users of other toolkits met it."""

import pytest
import sacrebleu
from launching import in_process, json_lines, tiny_config

from transformer_jax.evaluation.languages import bleu_tokenizer, reference_warnings
from transformer_jax.evaluation.scores import corpus_bleu

CHINESE = "zh zh-CN zh_TW zho chi cmn cmn_Hans ZH Chinese Mandarin yue yue_Hant wuu lzh nan zh-Hant"
CHARACTERS = "ja ja_XX jpn jpn_Jpan Japanese th tha Thai km khm my mya Burmese lo lao bo bod dz ii"
WORDS = "en eng eng_Latn de ger DE_at ko kor vi tr fi sr-Latn zh-Latn target cn xx"
# One sentence, and the code to advise for it.
UNSPACED = [
    ("我有一只猫，他是老师。", "zh"),
    ("わたしはねこがすきです。", "ja"),
    ("私は猫を一匹飼っています。", "ja"),
    ("ฉันมีแมวหนึ่งตัว", "th"),
    ("ខ្ញុំមានឆ្មាមួយ", "km"),
    ("ကျွန်တော်မှာကြောင်တစ်ကောင်ရှိတယ်", "my"),
    ("ຂ້ອຍມີແມວໂຕໜຶ່ງ", "lo"),
]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("tokenizer", "languages"), [("zh", CHINESE), ("char", CHARACTERS), ("13a", WORDS)]
)
def test_every_way_to_name_a_language_has_its_tokenizer(tokenizer, languages):
    assert {name: bleu_tokenizer(name) for name in languages.split()} == dict.fromkeys(
        languages.split(), tokenizer
    )


@pytest.mark.parametrize(("text", "code"), UNSPACED)
def test_text_without_spaces_under_another_language_is_a_warning(text, code):
    for language in ("target", "en", "xx", "kor"):
        (warning,) = reference_warnings([text] * 7, language)
        assert f"data.target_language={language!r}" in warning
        assert f"--config.data.target_language={code}" in warning
    assert reference_warnings([text] * 7, code) == []


@pytest.mark.parametrize(("text", "code"), UNSPACED)
def test_one_wrong_character_of_a_sentence_is_no_wrong_sentence(text, code):
    right, wrong = [text * 3] * 5, [text * 3 + "x"] * 5
    assert 50 < corpus_bleu(wrong, right, target_language=code) < 100
    as_words = sacrebleu.corpus_bleu(wrong, [right]).score
    assert corpus_bleu(wrong, right, target_language="en") == as_words


def test_an_unknown_script_without_spaces_is_a_warning():
    (warning,) = reference_warnings(["abcdefghijklmnopqrstuvwxyz"] * 3, "target")
    assert "no spaces between words" in warning


def test_words_counted_as_characters_are_a_warning():
    (warning,) = reference_warnings(["I have a cat."] * 3, "jpn")
    assert "makes BLEU count characters" in warning


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I have a cat.", "en"), ("Donaudampfschifffahrt ist schön.", "de"), ("", "ja"),
        ("Où est-il ? Là !", "fr"), ("나는 고양이가 있다.", "ko"), ("猫 means cat.", "en"),
    ],
)  # fmt: skip
def test_ordinary_references_are_no_warning(text, language):
    assert reference_warnings([text] * 7, language) == []


@pytest.mark.parametrize("text", ["I have a cat .", "a cat , he said", "it &apos;s", "a@@ b"])
def test_tokenised_references_are_a_warning(text):
    (warning,) = reference_warnings([text] * 4 + ["I have a cat."] * 3, "en")
    assert "4 of 7 references look tokenised" in warning
    assert reference_warnings([text] * 3 + ["I have a cat."] * 4, "en") == []


def test_evaluating_logs_the_warning(workdir, tmp_path, capsys):
    test = tmp_path / "test.tsv"
    test.write_text("猫\tI have a cat .\n狗\tI have a dog .\n", encoding="utf-8")
    config = tiny_config({"data.corpus": "files", "data.test": str(test)})
    in_process("evaluate", workdir, config)
    assert "2 of 2 references look tokenised" in capsys.readouterr().err
    assert len(json_lines(workdir / "evaluation/test/translations.jsonl")) == 2
