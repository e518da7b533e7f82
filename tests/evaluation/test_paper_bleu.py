"""The paper's BLEU: tokens and scores derived by hand from Moses's scripts."""

import math

import pytest
import sacrebleu

from transformer_jax.evaluation.paper_bleu import paper_bleu, tokenize

TRANSLATIONS = ["Das ist ein Text-Editor.", "Es ist da"]
REFERENCES = ["Das ist der Text-Editor.", "Es ist da."]


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        (  # the docstring's example: straight quotes, escaped; a comma within a number stays
            "Der „Rich-Text-Editor“ kostet 5,30 €.",
            "Der &quot; Rich ##AT##-##AT## Text ##AT##-##AT## Editor &quot; kostet 5,30 € .",
        ),
        ("A-B-C", "A ##AT##-##AT## B-C"),
        ("Haupt- und Nebenraum - 3", "Haupt- und Nebenraum - 3"),
        ("Dr. Meier, z.B. am 3. Mai.", "Dr. Meier , z.B. am 3. Mai ."),
        ("Geht’s…", "Geht &apos; s ..."),
        ("<a> & [b] | „c”", "&lt; a &gt; &amp; &#91; b &#93; &#124; &quot; c &quot;"),
        ("  zwei \t Wörter\u00a0hier ", "zwei Wörter hier"),
        ("", ""),
    ],
)
def test_tokens(sentence, tokens):
    assert tokenize([sentence]) == [tokens]


def test_score_derived_by_hand():
    """As multi-bleu.perl: matches over all of the corpus, no smoothing, one brevity penalty.

    Das ist {ein,der} Text ##AT##-##AT## Editor . has 7 tokens; matching are 6 of 7, 4 of 6, 2 of 5
    and 1 of 4 n-grams. Es ist da (.) adds 3 of 3, 2 of 2 and 1 of 1; 10 tokens against 11.
    """
    expected = 100 * math.exp(1 - 11 / 10) * (9 / 10 * 6 / 8 * 3 / 6 * 1 / 4) ** (1 / 4)
    assert paper_bleu(TRANSLATIONS, REFERENCES) == pytest.approx(expected, rel=1e-9)


def test_without_a_matching_4_gram_it_is_zero_and_a_right_compound_counts_for_three():
    translations, references = ["Das ist ein Haus."], ["Das ist mein Haus."]
    assert paper_bleu(translations, references) == 0
    assert sacrebleu.corpus_bleu(translations, [references]).score > 0, "which smooths"
    assert paper_bleu([""], references) == 0
    right, wrong = ["Wir lesen den Rich-Text hier."], ["Wir lesen den Rohtext hier."]
    reference = ["Wir lesen den Rich-Text dort."]
    assert paper_bleu(right, reference) > sacrebleu.corpus_bleu(right, [reference]).score
    assert paper_bleu(wrong, reference) == 0


def test_quotation_marks_are_the_same_on_both_sides():
    typographic, straight = ["Er sagte: „Komm, geh’n wir“ …"], ['Er sagte: "Komm, geh\'n wir" ...']
    for translations in (typographic, straight):
        for references in (typographic, straight):
            assert paper_bleu(translations, references) == pytest.approx(100)
