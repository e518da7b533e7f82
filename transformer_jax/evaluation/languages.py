"""What a language means for BLEU: which of sacrebleu's tokenizers counts its units."""

import contextlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import langcodes

# ISO 15924 codes of the scripts that put no spaces between words. sacrebleu splits Chinese by its
# own rules; in the others it counts characters.
_CHINESE = ("Hans", "Hant", "Hani")
_UNSPACED = (
    *("Jpan", "Hira", "Kana", "Hrkt", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Yiii"),
    *("Lana", "Talu", "Tavt", "Java", "Bali", "Cham"),
)
# The first word of the Unicode names of their letters, and a language to advise.
_LETTERS = {
    "CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "THAI": "th", "LAO": "lo", "KHMER": "km",
    "MYANMAR": "my", "TIBETAN": "bo", "YI": "ii", "TAI": "nod", "NEW": "khb", "JAVANESE": "jv-Java",
    "BALINESE": "ban-Bali", "CHAM": "cjm-Cham",
}  # fmt: skip
_TOKENISED = re.compile(r"\s[.,](\s|$)|&(apos|quot|amp);|@-@|@@(\s|$)")
_LONG_WORD = 20  # letters; a mean above it is no language that has spaces


def language_tag(language: str) -> str | None:
    """The BCP 47 tag of a code of ISO 639-1 or 639-3, a tag or an English name; None if unknown.

    >>> [language_tag(name) for name in ("jpn", "zh_TW", "German", "eng_Latn", "target")]
    ['ja', 'zh-TW', 'de', 'en-Latn', None]
    """
    with contextlib.suppress(langcodes.LanguageTagError):
        tag = langcodes.Language.get(language)
        if tag.is_valid():
            return str(tag)
    with contextlib.suppress(LookupError):
        return str(langcodes.find(language))
    return None


def bleu_tokenizer(language: str) -> str:
    """sacrebleu's tokenizer for a language: "zh" for Chinese, "char" for others without spaces.

    The default, 13a, takes a clause without spaces for one word.

    >>> [bleu_tokenizer(name) for name in ("zh", "cmn_Hans", "yue", "jpn", "Thai", "de", "target")]
    ['zh', 'zh', 'zh', 'char', 'char', '13a', '13a']
    """
    tag = language_tag(language)
    script = langcodes.Language.get(tag).maximize().script if tag else None
    return "zh" if script in _CHINESE else "char" if script in _UNSPACED else "13a"


def is_german(language: str) -> bool:
    """Whether a language is German, of any country."""
    tag = language_tag(language)
    return tag is not None and langcodes.Language.get(tag).language == "de"


def reference_warnings(references: Sequence[str], target_language: str) -> list[str]:
    """What makes BLEU against these references mean less than it seems to."""
    tokenizer, found = bleu_tokenizer(target_language), []
    option = f"data.target_language={target_language!r}"
    spoken = _without_spaces(references)
    if tokenizer == "13a" and spoken is not None:
        found.append(
            f"warning: the references have no spaces between words, but {option} makes BLEU split "
            "at spaces: each clause counts as one word; give the code of their language"
            + (f", as --config.data.target_language={spoken}" if spoken else "")
        )
    if tokenizer == "char" and spoken is None and any(map(str.strip, references)):
        found.append(
            f"warning: {option} makes BLEU count characters, but the references have spaces "
            "between words: give the code of their language"
        )
    tokenised = sum(bool(_TOKENISED.search(reference)) for reference in references)
    if tokenised > len(references) / 2:
        found.append(
            f"warning: {tokenised:,} of {len(references):,} references look tokenised "
            '("word ." instead of "word."): BLEU is of raw text, and that of tokenised text is '
            "another number; detokenise the data"
        )
    return found


def _without_spaces(texts: Sequence[str]) -> str | None:
    """The code of a language without spaces that most letters are of; "" = an unknown one."""
    letters: Counter[str] = Counter()
    for character, number in Counter("".join(texts)).items():
        if unicodedata.category(character)[0] in "LM":
            name = unicodedata.name(character, "")
            letters[re.split("[ -]", name, maxsplit=1)[0]] += number
    total, words = letters.total(), sum(len(text.split()) for text in texts)
    unspaced = Counter({kind: n for kind, n in letters.items() if kind in _LETTERS})
    if unspaced.total() > total / 2:
        japanese = unspaced["HIRAGANA"] + unspaced["KATAKANA"]
        return "ja" if japanese > total / 10 else _LETTERS[unspaced.most_common(1)[0][0]]
    return "" if total > _LONG_WORD * words else None
