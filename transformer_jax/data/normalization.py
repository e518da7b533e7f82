"""Text that looks alike becomes the same text, before it is cut into pieces.

NFKC would rewrite what a reader sees, Chinese punctuation among it; nothing here does.
"""

import functools
import re
import unicodedata

# Between these, and at the ends of a text, a joiner joins nothing: white space, ASCII, the letters
# and marks of Latin, Greek and Cyrillic, punctuation.
_UNJOINED = r"\s!-~\xc0-\u052f\u1e00-\u1fff\u2010-\u2027\u2030-\u205e"
# Controls (those that str.isspace knows are spaces), the soft hyphen, marks of direction, spaces
# and word joiners of no width, invisible operators, byte order marks, annotations.
_DROPPED = (
    r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
    r"\u2060-\u206f\ufeff\ufff9-\ufffb"
)
_INVISIBLE = re.compile(
    rf"(?<![^{_UNJOINED}])[\u200c\u200d{_DROPPED}]+(?![^{_UNJOINED}])|[{_DROPPED}]+"
)


def normalize(text: str) -> str:
    r"""`text` in NFC, without invisible characters, and with single spaces as its only white space.

    - Every white space is a space, tabs and line ends too; runs of them are one, and those at the
      ends go. "▁" is a space, because SentencePiece writes spaces so.
    - Controls, soft hyphens, byte order marks, zero-width spaces and word joiners are dropped, and
      so are marks of direction, which arrange text on a screen.
    - Zero-width joiners and non-joiners are dropped where they join nothing, as between Latin
      letters. Elsewhere they are seen: in Persian, in the scripts of India, in emoji.
    - Kept are variation selectors, the tags of flags, and format characters that are drawn.

    >>> normalize("\ufeffIl\xa0y  a\tdes cafe\u0301s\u200b, co\xadmme ça.")
    'Il y a des cafés, comme ça.'
    """
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():  # "printable" are all but controls, formats, and spaces but one
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", whole(text)))
    return " ".join(text.replace("▁", " ").split())


def whole(text: str) -> str:
    """`text` with surrogate pairs joined; a lone surrogate is no character, and becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@functools.cache
def rules() -> dict[str, str]:
    """What `normalize` does to single characters and to decomposed ones: {"e\\u0301": "é", …}.

    A tokenizer with these rules carries them into programs that do not call `normalize`. They lack
    what depends on a character's company: joiners, and marks in another order.
    """
    found = {}
    # All but the surrogates; no character above these changes.
    for character in map(chr, (*range(1, 0xD800), *range(0xE000, 0x30000))):
        last = unicodedata.decomposition(character)
        forms = {character, unicodedata.normalize("NFD", character)}
        if last and not last.startswith("<"):
            forms.add("".join(chr(int(part, 16)) for part in last.split()))
        if len(forms) == 1 and character.isprintable() and character != "▁":
            continue
        alone = normalize(f"猫{character}猫")[1:-1]
        found |= {form: alone for form in forms if form != alone}
    return found
