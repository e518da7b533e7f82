"""Pairs of text from the small world, HSK sentences, the user's files, or TFDS."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer_jax import storage
from transformer_jax.config import texts
from transformer_jax.config.options import DataConfig
from transformer_jax.data.language_codes import without_code
from transformer_jax.data.pairs import Pair, Pairs
from transformer_jax.data.splitting import hold_out
from transformer_jax.data.text import is_blank, nearest_sibling, readable, stream_lines
from transformer_jax.errors import UserError, nearest

_CORPORA = ["small_world", "hsk", "files", "tfds:<name>"]
_SMALL_WORLD_TRAIN_SIZE = 60_000
_TFDS_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_COMMA_HINT = """a name that has a comma is written in double quotes: '"a,b.en","a,b.de"'"""
_FILES_HINT = '"a.en,a.de" (two files, source first) or "pairs.tsv" (source, tab, target)'
# Glosses that are no translation: "used in 自個兒|自个儿[zi4 ge3 r5]", "surname Du" for 都 (all).
_NOT_A_TRANSLATION = re.compile(r"[\u4e00-\u9fff\[]|^surname [A-Z]")


@dataclasses.dataclass
class Corpus:
    """One split: (source, target) pairs, stripped of surrounding white space.

    `empty` counts the pairs that were dropped because a side was blank; `origins` names the corpus
    of each pair, if the text is made of several.
    """

    pairs: Sequence[Pair]
    empty: int
    origins: list[str] = dataclasses.field(default_factory=list)

    def part(self, numbers: np.ndarray) -> "Corpus":
        """The pairs of these numbers, without the count of the dropped ones."""
        origins = [self.origins[n] for n in numbers] if self.origins else []
        on_disk = isinstance(self.pairs, Pairs)
        pairs = self.pairs.part(numbers) if on_disk else [self.pairs[n] for n in numbers]
        return Corpus(pairs, 0, origins)

    def text_hash(self) -> str:
        """Identifies the text: 16 hexadecimal digits of SHA-256 over source, tab, target lines."""
        digest = hashlib.sha256()
        for source, target in self.pairs:
            digest.update(f"{source}\t{target}\n".encode())
        return digest.hexdigest()[:16]


def split_names(data: DataConfig) -> list[str]:
    """The names of the splits of `data.corpus`.

    Raises:
      UserError: if there is no such corpus.
    """
    if data.corpus == "small_world":
        return ["train", "valid", "test", "longer"]
    if data.corpus in ("hsk", "files") or re.match("tfds:.", data.corpus):
        return ["train", "valid", "test"]
    near = nearest(data.corpus, _CORPORA)
    raise UserError(f"data.corpus={data.corpus!r} is none of: {', '.join(_CORPORA)}{near}")


def load_splits(data: DataConfig, names: Sequence[str]) -> dict[str, Corpus]:
    """Reads or generates splits by name, in the direction of `data`; reads each text once.

    Only `data` decides what a split contains. The seed does not, so that runs with different seeds
    can be compared.

    Raises:
      UserError: if there is no such split, or its text is missing or cannot be read.
    """
    known = split_names(data)
    for name in names:
        if name not in known:
            near = nearest(name, known)
            raise UserError(f"{data.corpus} has no split {name!r}, only {', '.join(known)}{near}")
    read = {"small_world": _small_world, "hsk": _hsk, "files": _files}.get(data.corpus, _tfds)
    splits = read(data, names)
    if "train" in splits and data.train_size:
        splits["train"].pairs = splits["train"].pairs[: data.train_size]
    return splits


def tags(data: DataConfig, option: str = "train") -> list[str]:
    """The tags of the corpora that data.train, or another option, names."""
    return sorted({text.tag for text in _texts_of(data, option) if text.tag})


def reads_datasets(data: DataConfig) -> bool:
    """Whether training text comes from TFDS, all of it or some."""
    return data.corpus.startswith(texts.TFDS) or any(t.dataset for t in _texts_of(data, "train"))


def weights(data: DataConfig) -> dict[str, float]:
    """The weights of the training corpora by name; none if the text is one corpus."""
    if data.corpus != "files" or not texts.is_mixture(data.train):
        return {}
    return {text.label: text.weight for text in texts.parse(data.train)}


def load_split(data: DataConfig, split: str) -> Corpus:
    """Reads or generates one split; see `load_splits`."""
    return load_splits(data, [split])[split]


def is_cut(data: DataConfig, split: str) -> bool:
    """Whether a split is cut out of the training text."""
    given = data.corpus == "files" and getattr(data, split, "")
    return data.corpus in ("hsk", "files") and split != "train" and not given


def files(data: DataConfig, option: str) -> list[Path]:
    """The user's files that data.train, data.valid or data.test names; none for other corpora.

    Raises:
      UserError: if they are more than two, or one cannot be reached.
    """
    names = [path for text in _texts_of(data, option) for path in text.paths]
    return [storage.path(name, folder=data.path) for name in names]


def _texts_of(data: DataConfig, option: str) -> list[texts.Text]:
    """What the option names, if it names files."""
    value = getattr(data, option, "") if data.corpus == "files" else ""
    try:
        found = texts.parse(value)
    except UserError as e:
        raise UserError(f"data.{option}: {e}") from None
    for text in found:
        if not text.dataset and (len(text.paths) > 2 or not all(text.paths)):
            raise UserError(f"data.{option}={value!r} must be {_FILES_HINT}; {_COMMA_HINT}")
    return found


def _check_held_out_size(data: DataConfig, names: Sequence[str]) -> None:
    if names and not data.held_out_size:
        raise UserError(f"data.held_out_size=0 leaves no pairs for {names[0]}: raise it")


def _held_out(
    corpus: Corpus, data: DataConfig, missing: Sequence[str], names: Sequence[str]
) -> dict[str, Corpus]:
    """The splits `names` of a text, from which the `missing` ones are cut."""
    _check_held_out_size(data, [name for name in names if name in missing])
    if not missing:
        return {"train": corpus}
    # A sentence is the same with and without a tag.
    bare = ((without_code(source), target) for source, target in corpus.pairs)
    parts = hold_out(bare, data.held_out_size, missing)
    splits = {name: corpus.part(parts[name]) for name in names}
    if "train" in splits:
        splits["train"].empty = corpus.empty
    return splits


def _without_blanks(pairs: Iterable[Pair], origin: str, limit: int = 0) -> Corpus:
    """Strips pairs, and drops those with a blank side; keeps at most `limit` pairs (0 = all)."""
    corpus = Corpus([], 0)

    def visible() -> Iterator[Pair]:
        for source, target in pairs:
            stripped = source.strip(), target.strip()
            if any(map(is_blank, stripped)):
                corpus.empty += 1
            else:
                yield stripped

    corpus.pairs = Pairs(itertools.islice(visible(), limit or None))
    if not corpus.pairs:
        why = f"{corpus.empty} dropped: a side is blank" if corpus.empty else "it is empty"
        raise UserError(f"{origin} has no pairs ({why})")
    return corpus


# ------------------------------------------------------------------------------ Chinese and English
def _from_zh_en(pairs: Sequence[Pair], data: DataConfig) -> Sequence[Pair]:
    direction = (data.source_language, data.target_language)
    if sorted(direction) != ["en", "zh"]:
        raise UserError(
            f"{data.corpus} has only zh and en, not data.source_language={direction[0]!r} with "
            f"data.target_language={direction[1]!r}"
        )
    return pairs if direction == ("zh", "en") else [(en, zh) for zh, en in pairs]


def _small_world(data: DataConfig, names: Sequence[str]) -> dict[str, Corpus]:
    from transformer_jax.data.small_world.grammar import pairs

    _from_zh_en([], data)  # raises for other languages before seconds of work
    train_size = data.train_size or _SMALL_WORLD_TRAIN_SIZE
    _check_held_out_size(data, [name for name in names if name != "train"])
    sizes = {name: train_size if name == "train" else data.held_out_size for name in names}
    return {n: Corpus(_from_zh_en(pairs(n, size=size), data), 0) for n, size in sizes.items()}


def _hsk(data: DataConfig, names: Sequence[str]) -> dict[str, Corpus]:
    """4,354 real sentences; the glosses of their words join the training split."""
    try:
        import hsk_sentences_audio
    except ImportError:
        raise UserError(
            "data.corpus='hsk' needs hsk-sentences-audio: pip install 'transformer_jax[hsk]'"
        ) from None
    records = hsk_sentences_audio.load_sentences()
    # 80 translations are "placeholder", "placeholder-p2" and the like: they count as empty.
    sentences = (
        (r["chinese"], re.sub(r"^placeholder(-\w+)?$", "", r["translation"]["en"].strip()))
        for r in records
    )
    corpus = _without_blanks(sentences, data.corpus)
    splits = _held_out(corpus, data, ["valid", "test"], names)
    if "train" in splits:
        training = set(splits["train"].pairs)
        held_out = {text for pair in corpus.pairs if pair not in training for text in pair}
        glosses = (pair for pair in _glosses(records) if held_out.isdisjoint(pair))
        splits["train"].pairs = [*splits["train"].pairs, *glosses]
    for split in splits.values():
        split.pairs = _from_zh_en(split.pairs, data)
    return splits


def _glosses(records: Iterable[dict[str, Any]]) -> list[Pair]:
    """The distinct pairs of a word and the first sense of its gloss."""
    tokens = (token for record in records for token in record["tokens"])
    different = dict.fromkeys((t["word"].strip(), first_sense(t["gloss_en"])) for t in tokens)
    return [pair for pair in different if all(pair) and not _NOT_A_TRANSLATION.search(pair[1])]


def first_sense(gloss: str) -> str:
    """The first sense of a dictionary's gloss, without remarks; "" if only remarks are left.

    >>> first_sense("you (courteous, as opposed to informal 你[ni3]); thou")
    'you'
    """
    count = 1
    while count:  # from the innermost parentheses outwards: remarks nest, and contain ";"
        gloss, count = re.subn(r"\([^()]*\)", " ", gloss)
    return " ".join(gloss.split(";")[0].split())


# ------------------------------------------------------------------------------- the user's files
def _files(data: DataConfig, names: Sequence[str]) -> dict[str, Corpus]:
    given = [name for name in names if name != "train" and getattr(data, name)]
    _check_options(data)
    splits = {name: _read_pairs(data, name) for name in given}
    rest = [name for name in names if name not in given]
    if not rest:
        return splits
    if not data.train:
        empty = "data.train is" if rest[0] == "train" else f"data.{rest[0]} and data.train are"
        raise UserError(f"{empty} empty: give {_FILES_HINT}")
    missing = [name for name in ("valid", "test") if not getattr(data, name)]
    return splits | _held_out(_read_pairs(data, "train"), data, missing, rest)


def _check_options(data: DataConfig) -> None:
    if data.train_size and weights(data):
        raise UserError(
            f"data.train_size={data.train_size} is for one corpus without weight or tag, and "
            f"data.train={data.train!r}: set it to 0"
        )
    for option in ("valid", "test"):
        for text in _texts_of(data, option):
            if text.weight != 1:
                raise UserError(f"data.{option} has weight={text.weight:g}: only data.train has")


def _read_pairs(data: DataConfig, option: str) -> Corpus:
    found = _texts_of(data, option)
    if not texts.is_mixture(getattr(data, option)):
        return _read_files(files(data, option))
    whole = Corpus([], 0)

    def tagged() -> Iterator[Pair]:
        for text in found:
            if text.dataset:
                corpus = _read_dataset(data, text.dataset, option, text.split)
            else:
                corpus = _read_files([storage.path(name, folder=data.path) for name in text.paths])
            tag = f"{text.tag} " if text.tag else ""
            yield from ((tag + source, target) for source, target in corpus.pairs)
            whole.origins += [text.label] * len(corpus.pairs)
            whole.empty += corpus.empty

    whole.pairs = Pairs(tagged())
    return whole


def _read_files(paths: Sequence[Path]) -> Corpus:
    for path in paths:
        _check_exists(path, f"; {_COMMA_HINT}" if len(paths) > 1 else "")
    if len(paths) == 1:
        return _without_blanks(_read_columns(paths[0]), str(paths[0]))
    return _without_blanks(_read_lines(*paths), " with ".join(map(str, paths)))


def _read_lines(*paths: Path) -> Iterator[Pair]:
    """Yields line after line of two files."""
    files = [stream_lines(path) for path in paths]
    for number, lines in enumerate(itertools.zip_longest(*files)):
        if None in lines:
            ended = zip(lines, files, strict=True)
            counts = [number + (line is not None) + sum(1 for _ in file) for line, file in ended]
            raise UserError(
                f"{paths[0]} has {counts[0]} lines, but {paths[1]} has {counts[1]}: "
                "each line must translate the same line of the other"
            )
        yield lines


def _check_exists(path: Path, hint: str) -> None:
    with readable(path):
        if not path.exists():
            near = nearest_sibling(path)
            folder = f"give its folder, --config.data.path=DIR{hint}"
            raise UserError(f"{path} does not exist{near}: {folder}")


def _read_columns(path: Path) -> Iterator[Pair]:
    """Yields the first two columns; Tatoeba has its attribution in the third."""
    for number, line in enumerate(stream_lines(path), start=1):
        source, tab, rest = line.partition("\t")
        if not tab and not is_blank(line):
            raise UserError(f"{path}, line {number} has no tab: give {_FILES_HINT}")
        yield source, rest.partition("\t")[0]


# ------------------------------------------------------------------------------------------- TFDS
def _tfds(data: DataConfig, names: Sequence[str]) -> dict[str, Corpus]:
    dataset = data.corpus.removeprefix(texts.TFDS)
    return {name: _read_dataset(data, dataset, name, getattr(data, name)) for name in names}


def _read_dataset(data: DataConfig, dataset: str, split: str, expression: str) -> Corpus:
    """A split of a dataset; `expression` is TFDS's name of it, "" = the usual one."""
    where = f"{texts.TFDS}{dataset}"
    try:
        import tensorflow_datasets as tfds
        import tensorflow_datasets.translate  # registers wmt*
    except ImportError as e:
        raise UserError(
            f"{where!r} needs tensorflow-datasets and array-record: "
            f"pip install 'transformer_jax[wmt]' ({e})"
        ) from None
    expression = expression or _TFDS_SPLITS[split]
    try:
        # Only ArrayRecord is read without TensorFlow.
        records = tfds.data_source(
            dataset,
            split=expression,
            data_dir=storage.absolute(data.path) or None,
            builder_kwargs={"file_format": "array_record"},
        )
    except (ValueError, KeyError) as e:  # no such dataset, configuration or split
        reason = str(e).partition("\n")[0]
        raise UserError(f"{where}, data.{split}={expression!r}: {reason}") from None
    limit = data.train_size if split == "train" else 0
    return _without_blanks(_sides(records, where, data), f"{where} {expression}", limit)


def _sides(
    records: Iterable[dict[str, bytes | str]], where: str, data: DataConfig
) -> Iterator[Pair]:
    for record in records:
        try:
            sides = record[data.source_language], record[data.target_language]
        except KeyError as e:
            raise UserError(f"{where} has no {e}, only {', '.join(sorted(record))}") from None
        # Bytes, but strings in tfds.testing.mock_data.
        source, target = (s.decode() if isinstance(s, bytes) else s for s in sides)
        yield source, target
