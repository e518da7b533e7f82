"""The BLEU of Vaswani et al. 2017 for German targets: tokenised, with compounds split.

Tensor2Tensor's utils/get_ende_bleu.sh computes it: Moses's tokenizer.perl -l de, then
"rich-text" → "rich ##AT##-##AT## text", then multi-bleu.perl. A right compound counts as three
matches instead of one, so the result is higher than sacreBLEU's and must not be compared with it.

The script expects a tokenised reference with straight quotation marks, and replaces typographic
punctuation in the translations only. Here both sides are raw text and both get both steps, so that
a perfect translation scores 100.
"""

import re
from collections.abc import Sequence

from sacrebleu.metrics import BLEU

# The marks of German text that replace-unicode-punctuation.perl replaces, and „, which it forgets.
_STRAIGHT = str.maketrans({"„": '"', "“": '"', "”": '"', "’": "'", "…": "..."})
# First sentences of newstest2014, whole and as filtered for the shared task.
_NEWSTEST2014 = frozenset(
    {
        "Gutach: Noch mehr Sicherheit für Fußgänger",
        "Orlando Bloom und Miranda Kerr lieben sich noch immer",
    }
)


def is_newstest2014(references: Sequence[str]) -> bool:
    """Whether the references are those of the paper's test set, in either of its two sizes."""
    return len(references) in (2737, 3003) and not _NEWSTEST2014.isdisjoint(references)


def paper_bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0–100, of detokenised German; like multi-bleu.perl, 0 without a 4-gram match.

    Args:
      translations: one per sentence.
      references: one per sentence.

    Raises:
      ModuleNotFoundError: without sacremoses, which the extra `de` installs.
    """
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    return metric.corpus_score(tokenize(translations), [tokenize(references)]).score


def tokenize(sentences: Sequence[str]) -> list[str]:
    """The tokens of each sentence, separated by spaces and escaped as tokenizer.perl escapes them.

    'Der „Rich-Text-Editor“ kostet 5,30 €.' gives
    'Der &quot; Rich ##AT##-##AT## Text ##AT##-##AT## Editor &quot; kostet 5,30 € .'
    while only the first hyphen of 'A-B-C' is split: the pattern has consumed the B.
    """
    # Only German needs sacremoses. It splits like the tokenizer.perl of 2017, which left the full
    # stop on a last word such as "z.B."; since November 2018 Moses splits that too.
    from sacremoses import MosesTokenizer

    split = MosesTokenizer(lang="de").tokenize
    tokenised = [" ".join(split(sentence.translate(_STRAIGHT))) for sentence in sentences]
    return [re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", tokens) for tokens in tokenised]
