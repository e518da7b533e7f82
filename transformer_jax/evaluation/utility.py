"""How alike the translations of one sentence are: sentence chrF or BLEU of each against each."""

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU
from sacrebleu.metrics.helpers import extract_all_char_ngrams

from transformer_jax.evaluation.languages import bleu_tokenizer
from transformer_jax.evaluation.scores import ChrF


def pairwise_bleu(texts: Sequence[str], *, target_language: str) -> np.ndarray:
    """sacreBLEU's sentence BLEU, 0–100, of each text (row) against each as the reference (column).

    Args:
      texts: N translations.
      target_language: decides what BLEU counts; see `bleu_tokenizer`.

    Returns:
      float64 [N, N].
    """
    metric = BLEU(tokenize=bleu_tokenizer(target_language), effective_order=True)
    scores = [[metric.sentence_score(x, [y]).score for y in texts] for x in texts]
    return np.array(scores).reshape(len(texts), len(texts))


def pairwise_chrf(texts: Sequence[str]) -> np.ndarray:
    """The same with sacreBLEU's sentence chrF2, whose n-grams are extracted once for each text.

    Among 32 captions that takes a twentieth of the time of sacreBLEU's `sentence_score`.
    """
    metric = ChrF()
    orders = zip(*(extract_all_char_ngrams(text, metric.char_order) for text in texts), strict=True)
    stats = []  # for each order, n-grams of the text, of the reference, and of both
    for grams in orders:
        column = {gram: n for n, gram in enumerate(set().union(*grams))}
        counts = np.zeros((len(texts), len(column)), np.int64)
        for row, counter in zip(counts, grams, strict=True):
            row[[column[gram] for gram in counter]] = list(counter.values())
        both = np.stack([np.minimum(row, counts).sum(1) for row in counts])
        sizes = np.broadcast_to(counts.sum(1), both.shape)
        stats += [sizes.T, sizes, both]
    rows = np.stack(stats, axis=-1).tolist()
    return np.array([[metric._compute_f_score(pair) for pair in row] for row in rows])
