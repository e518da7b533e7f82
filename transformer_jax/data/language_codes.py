"""Codes that begin a source and name the language to write, as in ">>fra<< I have a cat".

Multilingual Marian models read them (Johnson et al. 2017 had "<2fr>"), and so do models trained
here on text that has them. A code is one piece, and the text after it is cut by itself.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from transformer_jax.config.texts import TAG
from transformer_jax.console import log
from transformer_jax.data.text import is_blank


def split_code(text: str) -> tuple[str, str]:
    """The code that `text` begins with, after what is blank, and the rest; "" and all without one.

    >>> split_code("  >>fra<< I have a cat"), split_code("a >>fra<<")
    (('>>fra<<', ' I have a cat'), ('', 'a >>fra<<'))
    """
    found = TAG.search(text) if ">>" in text else None
    if found is None or not is_blank(text[: found.start()]):
        return "", text
    return found[0], text[found.end() :]


def without_code(text: str) -> str:
    """`text` without the codes that it begins with, if any, and without blanks around it.

    >>> without_code(">>bt<< >>fra<< I have a cat")
    'I have a cat'
    """
    code, rest = split_code(text)
    return without_code(rest) if code else rest.strip()


def codes_in(vocabulary: Iterable[str]) -> tuple[str, ...]:
    """The pieces that are codes."""
    return tuple(piece for piece in vocabulary if TAG.fullmatch(piece))


def codes_of_corpus(sources: Iterable[str]) -> list[str]:
    """The codes that training text begins with, if most of its sources have one; logs the rest."""
    counts = Counter(code for code, _ in map(split_code, sources))
    total, bare = counts.total(), counts.pop("", 0)
    coded = total - bare
    if coded > bare:
        if bare:
            log(f"{bare:,} of {total:,} sources begin with no code, as >>fra<< is one")
        return sorted(counts)
    if coded:
        log(
            f"{coded:,} of {total:,} sources begin with a code, as {next(iter(counts))}: "
            "fewer than half, so that codes are read as text"
        )
    return []


def listed(codes: Sequence[str], most: int = 20) -> str:
    """ ">>deu<<, >>fra<<", of many codes the first."""
    more = f" and {len(codes) - most:,} more" if len(codes) > most else ""
    return ", ".join(codes[:most]) + more
