"""What data.train, data.valid and data.test name: one corpus, or several with weights and tags."""

import csv
import dataclasses
import io
import math
import re
from collections.abc import Callable, Iterable
from pathlib import PurePath

from transformer_jax import storage
from transformer_jax.errors import UserError, nearest

TFDS = "tfds:"
# A tag is a code: one piece, which begins a source (`data/language_codes.py`).
TAG = re.compile(r">>[^<>\s]+<<")
# A tag may be one that has white space, which is then refused.
_FACT = re.compile(r"\s([a-z]+)=((?<=\stag=)[^\"=]+|[^\s\"]+)$")
_QUOTED_OR_PLAIN = re.compile(r'(?:[^;"]|"[^"]*"?)+')


@dataclasses.dataclass(frozen=True)
class Text:
    """One corpus of several.

    Attributes:
      paths: its one or two files; none if it is a dataset of TFDS.
      dataset: its name there, "wmt14_translate/de-en", or "".
      name: what logs and metrics call it; "" = as its first file or its dataset.
      weight: how often its pairs are drawn.
      tag: what begins its sources, ">>med<<", or "".
      split: of the dataset; "" = that of the option.
    """

    paths: tuple[str, ...] = ()
    dataset: str = ""
    name: str = ""
    weight: float = 1.0
    tag: str = ""
    split: str = ""

    @property
    def label(self) -> str:
        """What logs and metrics call it."""
        file = PurePath(self.paths[0]).name if self.paths else self.dataset
        return self.name or (file.partition(".")[0] or file if self.paths else file)

    @property
    def facts(self) -> dict[str, str]:
        """The facts that are not as by default, as they are written down."""
        return {
            f.name: str(getattr(self, f.name))
            for f in dataclasses.fields(self)[2:]
            if getattr(self, f.name) != f.default
        }


def parse(value: str) -> list[Text]:
    """The corpora that an option names, with semicolons between them.

    >>> for text in parse('a.en,a.de; "b;c.tsv" weight=2 tag=>>med<<; tfds:ted/de-en split=test'):
    ...     print(text.label, text.paths, text.dataset, text.weight, text.tag, text.split)
    a ('a.en', 'a.de')  1.0
    b;c ('b;c.tsv',)  2.0 >>med<<
    ted/de-en () ted/de-en 1.0  test

    Raises:
      UserError: if something does not make sense.
    """
    parts = [part for part in _QUOTED_OR_PLAIN.findall(value) if part.strip()]
    if value.strip() and not parts:
        raise UserError(f"{value!r} names no file")
    texts = [_parse_one(part.strip()) for part in parts]
    names = [text.label for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{value!r} has two corpora that are called {name}: add name=… to one")
    return texts


def is_mixture(value: str) -> bool:
    """Whether the option names several corpora, or one with a weight, a tag or the like."""
    texts = parse(value)
    return len(texts) > 1 or any(text.dataset or text.facts for text in texts)


def paths(value: str) -> list[str]:
    """All files that the option names."""
    return [path for text in parse(value) for path in text.paths]


def with_paths(value: str, function: Callable[[str], str]) -> str:
    """The same option, with `function` applied to each path."""
    parts = []
    for text in parse(value):
        where = f"{TFDS}{text.dataset}" if text.dataset else _join(map(function, text.paths))
        parts.append(" ".join([where, *(f"{k}={v}" for k, v in text.facts.items())]))
    return "; ".join(parts)


def _parse_one(part: str) -> Text:
    facts: dict[str, str] = {}
    while found := _FACT.search(part):
        if found[1] in facts:
            raise UserError(f"{part} has a second {found[1]}={facts[found[1]]}: keep one")
        facts[found[1]] = found[2]
        part = part[: found.start()].rstrip()
    known = [f.name for f in dataclasses.fields(Text)][2:]
    for name, value in facts.items():
        if name not in known:
            near = nearest(name, known)
            raise UserError(f"{name}={value} of {part} is none of: {', '.join(known)}{near}")
    tag = facts.get("tag", "")
    if tag and not TAG.fullmatch(tag):
        word = "_".join(re.findall(r"[^<>\s]+", tag)) or "med"
        raise UserError(
            f"tag={tag} of {part} would be cut into pieces: a tag is one word between >> and <<, "
            f"without white space, as >>{word}<<"
        )
    dataset = part.removeprefix(TFDS) if part.startswith(TFDS) else ""
    if part == TFDS:
        raise UserError(f"{TFDS} names no dataset: write {TFDS}wmt14_translate/de-en")
    if "split" in facts and not dataset:
        raise UserError(f"split={facts['split']} of {part} is for a dataset of TFDS: leave it out")
    files = () if dataset else tuple(storage.split_paths(part))
    return Text(files, dataset, **facts | {"weight": _weight(facts.get("weight", "1"), part)})


def _weight(text: str, part: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(f"weight={text} of {part} must be a number above 0")
    return weight


def _join(names: Iterable[str]) -> str:
    found = list(names)
    if not any(";" in name or _FACT.search(name) for name in found):
        return storage.join_paths(found)
    text = io.StringIO()
    csv.writer(text, lineterminator="", quoting=csv.QUOTE_ALL).writerow(found)
    return text.getvalue()
