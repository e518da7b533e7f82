"""The BLEU of Vaswani et al. 2017 for German targets: tokenised, with compounds split.

What Tensor2Tensor's utils/get_ende_bleu.sh computes: Moses's tokenizer.perl -l de, then
"rich-text" → "rich ##AT##-##AT## text", then multi-bleu.perl. A right compound is three matches
instead of one, so the result is higher than sacreBLEU's and must not be compared with it.

The script takes a tokenised reference whose quotation marks had been made straight, and replaces
typographic punctuation in the translations alone. From raw text, both sides get both here, so that
a perfect translation has 100.
"""

import functools
import re
from collections.abc import Callable, Sequence

from sacrebleu.metrics import BLEU

# What replace-unicode-punctuation.perl does to the marks of German text, and „, which it forgets.
_STRAIGHT = str.maketrans({"„": '"', "“": '"', "”": '"', "’": "'", "…": "..."})


def paper_bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0–100, of detokenised German; 0 without a matching 4-gram, as multi-bleu.perl.

    Args:
      translations: one per sentence.
      references: one per sentence.
    """
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    sides = ([tokenize(sentence) for sentence in side] for side in (translations, references))
    tokenised, tokenised_references = sides
    return metric.corpus_score(tokenised, [tokenised_references]).score


def tokenize(sentence: str) -> str:
    """Tokens with spaces between them, and escaped as tokenizer.perl does.

    'Der „Rich-Text-Editor“ kostet 5,30 €.' gives
    'Der &quot; Rich ##AT##-##AT## Text ##AT##-##AT## Editor &quot; kostet 5,30 € .'
    while of 'A-B-C' only the first hyphen is split: the pattern has used up the B.
    """
    tokens = " ".join(_moses()(sentence.translate(_STRAIGHT)))
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", tokens)


@functools.cache
def _moses() -> Callable[[str], list[str]]:
    # Imported here: only German needs it. It splits as the tokenizer.perl of 2017, which left the
    # full stop of a last word such as "z.B." on it; since November 2018 Moses splits that too.
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang="de").tokenize
