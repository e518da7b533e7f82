"""What a start found in the training text, recorded so that the next one need not read it.

The text is recognised by the bytes of its files, which are hashed some hundred times as fast as
pairs are read. To compare their sizes and times would cost nothing, but an edited file can keep
both (`cp -p`, `rsync -t`, a second edit within the clock's resolution), and would then pass for the
text that was trained on.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from transformer_jax.config import texts
from transformer_jax.config.options import DataConfig
from transformer_jax.data import corpora, held_out
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.data.tokens import content_hash
from transformer_jax.storage import write_whole
from transformer_jax.workdir import manifest

_FILE = "training_text.json"


class TextRecord(NamedTuple):
    """What training needs to know of a text whose tokens it has.

    Attributes:
      raw_hash: of the files as they are, see `raw_hash`; "" = the text is not in files.
      content_hash: of the pairs and the tokenizers.
      empty: how many pairs were dropped because a side was blank.
      origins: how many pairs are of each corpus, if it is made of several.
    """

    raw_hash: str
    content_hash: str
    empty: int
    origins: dict[str, int]


def raw_hash(data: DataConfig, tokenizers: Tokenizers) -> str:
    """SHA-256 over all that decides the training pairs and their tokens, without reading a pair.

    "" if some of it is not in files, or in none that can be read.
    """
    if data.corpus != "files" or any(text.dataset for text in texts.parse(data.train)):
        return ""
    try:
        files = [manifest.sha256(file) for file in corpora.files(data, "train")]
    except OSError:
        return ""
    models = [hashlib.sha256(tokenizer.model).hexdigest() for tokenizer in tokenizers]
    content = json.dumps([held_out.options(data), files, models])
    return hashlib.sha256(content.encode()).hexdigest()


def describe(corpus: corpora.Corpus, tokenizers: Tokenizers, raw_hash: str) -> TextRecord:
    """The record of a text that has been read."""
    origins = dict(Counter(corpus.origins))
    return TextRecord(raw_hash, content_hash(corpus.pairs, tokenizers), corpus.empty, origins)


def load(folder: Path, raw_hash: str) -> TextRecord | None:
    """The record in `folder`; None if there is none, or it is damaged or of another text."""
    try:
        record = TextRecord(**json.loads((folder / _FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if raw_hash and record.raw_hash == raw_hash else None


def save(folder: Path, record: TextRecord) -> None:
    """Writes the record, if the text is in files.

    Raises:
      UserError: if it cannot be written.
    """
    if record.raw_hash:
        write_whole(folder / _FILE, json.dumps(record._asdict(), ensure_ascii=False) + "\n")
