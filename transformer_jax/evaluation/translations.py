"""The translations of a split beside their sources and references, in files and on a terminal."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax import storage
from transformer_jax.evaluation.scores import Scores
from transformer_jax.storage import write_whole

COLUMNS = ("source", "translation", "reference")
_ORIGIN = "corpus"
SCORES_FILE, JSON_FILE, TABLE_FILE = "scores.json", "translations.jsonl", "translations.tsv"


def write_translations(
    folder: Path,
    scores: Scores,
    sources: Sequence[str],
    translations: Sequence[str],
    references: Sequence[str],
    *,
    origins: Sequence[str] = (),
    **about: Any,
) -> dict[str, Any]:
    """Writes translations.tsv, translations.jsonl and scores.json into `folder`.

    The sentences are raw text, one of each column per row; `origins` names the corpus of each, if
    there are several, for the JSON. `about` is recorded in scores.json before the scores: the
    split, the weights, the decode options.

    Returns:
      The content of scores.json.
    """
    storage.make_folder(folder)
    rows = list(zip(sources, translations, references, strict=True))
    # A tab or a carriage return inside a sentence would shift the columns.
    lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in [COLUMNS, *rows]]
    write_whole(folder / TABLE_FILE, "\n".join(lines) + "\n")
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    for record, origin in zip(records if origins else (), origins, strict=True):
        record[_ORIGIN] = origin
    json_lines = [json.dumps(record, ensure_ascii=False) for record in records]
    write_whole(folder / JSON_FILE, "\n".join(json_lines) + "\n")
    result = {**about, **dataclasses.asdict(scores)}
    write_whole(folder / SCORES_FILE, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def folder_of(workdir: Path, split: str) -> Path:
    """Where the translations of a split are."""
    return workdir / "evaluation" / split


def name_across(split: str, owner: Path) -> str:
    """The name of a split whose sentences are those that another workdir was evaluated on."""
    return f"{split}-of-{owner.name}"


def read_translations(folder: Path) -> list[list[str]]:
    """What `write_translations` wrote: the sources, translations and references, and the origins.

    Raises:
      FileNotFoundError: if there are none.
      ValueError, KeyError, TypeError: if they are damaged.
    """
    text = (folder / JSON_FILE).read_text(encoding="utf-8")
    # Not splitlines(), which would also split at a U+2028 inside a sentence.
    rows = [json.loads(line) for line in text.split("\n")[:-1]]
    origins = [row[_ORIGIN] for row in rows if _ORIGIN in row]
    return [*([row[name] for row in rows] for name in COLUMNS), origins]


def side_by_side(
    sources: Sequence[str], translations: Sequence[str], references: Sequence[str]
) -> str:
    """Each source, its translation, and the reference where the two differ, one below the other."""
    lines = []
    for source, translation, reference in zip(sources, translations, references, strict=True):
        same = translation == reference
        lines += [f"  {source}", f"    {'=' if same else '≠'} {translation}"]
        lines += [] if same else [f"    reference: {reference}"]
    return "\n".join(lines)
