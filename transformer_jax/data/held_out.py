"""What a run trained on, and what it held out: recorded in its workdir when the training begins.

The text that lies on the disk may change later, and options may cut other pairs out of it. So
validation and evaluation read the pairs recorded here, and any other text is compared with the
fingerprints of the training text.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.config.files import with_absolute_paths
from transformer_jax.config.options import Config, DataConfig
from transformer_jax.console import log
from transformer_jax.data import corpora
from transformer_jax.data.language_codes import without_code
from transformer_jax.data.normalization import normalize
from transformer_jax.data.pairs import Pair
from transformer_jax.data.splitting import fingerprint
from transformer_jax.errors import UserError
from transformer_jax.storage import is_remote, make_folder, write_whole
from transformer_jax.workdir import manifest

FOLDER = "held_out"  # in a workdir
_ABOUT_FILE = "about.json"
# The options that decide what a split contains.
_OPTIONS = (
    *("corpus", "path", "train", "valid", "test", "train_size", "held_out_size"),
    *("source_language", "target_language"),
)


class Overlap(NamedTuple):
    """How many of a split's pairs, in either direction, and of its sources were trained on."""

    pairs: int
    sources: int
    of: int

    def __str__(self) -> str:
        return (
            f"{self.pairs:,} of {self.of:,} pairs, and {self.sources:,} sources, are in the "
            "training text"
        )


def record(
    workdir: Path,
    data: DataConfig,
    splits: Mapping[str, corpora.Corpus],
    parent: Path | None = None,
) -> None:
    """Writes the held-out pairs, and fingerprints of the training text, into `workdir`.

    Args:
      workdir: of the run that begins.
      data: the options that the splits were read with.
      splits: "train" and the held-out ones.
      parent: the workdir whose weights the run begins with: they have learned its text, too.
    """
    folder = workdir / FOLDER
    make_folder(folder)
    known = parent and exists(parent)
    if parent and not known:
        log(f"warning: {parent} does not record its training text: no overlap with it is counted")
    for name, prints in _fingerprints(splits["train"].pairs).items():
        if known:
            prints = np.concatenate([prints, _read_prints(parent, name)])
        content = io.BytesIO()
        np.save(content, np.unique(prints))
        write_whole(folder / f"{name}.npy", content.getvalue())
    overlaps = {}
    for split in (name for name in splits if name != "train"):
        pairs, origins = splits[split].pairs, splits[split].origins
        rows = [[*p, o] for p, o in zip(pairs, origins, strict=True)] if origins else pairs
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_whole(folder / f"{split}.jsonl", "".join(lines))
        overlaps[split] = overlap = count_overlap(workdir, pairs)
        whose = f" of this run and {parent}" if known else ""
        log(f"{'warning: ' if overlap.sources else ''}{split}: {overlap}{whose}")
    about = {
        "data": options(data),
        "files": {name: _file_hashes(data, name) for name in splits},
        "overlap": {split: overlap._asdict() for split, overlap in overlaps.items()},
    }
    write_whole(folder / _ABOUT_FILE, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    manifest.write(folder)


def exists(workdir: Path) -> bool:
    """Whether `workdir` has a record."""
    return manifest.exists(workdir / FOLDER)


def recorded_overlaps(workdir: Path) -> dict[str, Any]:
    """{"test": {"pairs": 0, "sources": 2, "of": 1000}, …}, as counted when training began."""
    return _about(workdir)["overlap"] if exists(workdir) else {}


def load_split(
    workdirs: Sequence[Path], data: DataConfig, split: str
) -> tuple[corpora.Corpus, Overlap | None]:
    """A split to evaluate the models of `workdirs` on, and how much of it they were trained on.

    With the options of the first workdir it is the one that was recorded there, whatever has become
    of the text; with other options it is read. Overlap is logged as a warning; so is a workdir that
    does not record its training text, for which the overlap is None.

    Raises:
      UserError: if there is no such split, its text cannot be read, the record is damaged, or
        the options cut another split out of the training text, and pairs of it were trained on.
    """
    recorded = _recorded(workdirs[0], data, split) if exists(workdirs[0]) else None
    corpus = recorded or corpora.load_split(data, split)
    cut = not recorded and corpora.is_cut(data, split)
    return corpus, worst_overlap(workdirs, corpus, split, cut_by=data if cut else None)


def worst_overlap(
    workdirs: Sequence[Path],
    corpus: corpora.Corpus,
    split: str,
    *,
    cut_by: DataConfig | None = None,
) -> Overlap | None:
    """How much of a corpus the models of `workdirs` were trained on; logged as in `load_split`.

    `cut_by` has the options that have cut the corpus out of a training text, if they have.
    """
    worst = None
    for workdir in workdirs:
        if not exists(workdir):
            log(
                f"warning: {workdir} does not record its training text: whether it was trained on "
                f"the {split} text cannot be checked"
            )
            continue
        overlap = count_overlap(workdir, corpus.pairs)
        if overlap.pairs and cut_by:
            _refuse_cutting_again(workdir, cut_by, split, overlap)
        if overlap.sources:
            log(f"warning: {split}: {overlap} of {workdir}")
        worst = max(worst or overlap, overlap)
    return worst


def _recorded(workdir: Path, data: DataConfig, split: str) -> corpora.Corpus | None:
    """The recorded split; None if there is none, or `data` has other options."""
    about, path = _about(workdir), workdir / FOLDER / f"{split}.jsonl"
    if about["data"] != options(data) or not path.exists():
        return None
    source = "train" if corpora.is_cut(data, split) else split
    for name, digest in about["files"][source].items():
        file = Path(name)
        if not file.exists() or manifest.sha256(file) != digest:
            change = "has changed since training began" if file.exists() else "no longer exists"
            log(
                f"warning: {name} {change}; the {split} split is the one that was recorded when "
                f"training began, in {workdir / FOLDER}"
            )
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    rows = [json.loads(line) for line in lines]
    origins = [origin for *_, origin in rows] if any(len(row) > 2 for row in rows) else []
    return corpora.Corpus([(source, target) for source, target, *_ in rows], 0, origins)


def _about(workdir: Path) -> dict[str, Any]:
    folder = workdir / FOLDER
    damage = manifest.damaged(folder)
    if damage:
        raise UserError(f"{folder} is damaged ({damage[0]}): restore it from a copy")
    return json.loads((folder / _ABOUT_FILE).read_text(encoding="utf-8"))


def _refuse_cutting_again(workdir: Path, data: DataConfig, split: str, overlap: Overlap) -> None:
    saved, now = _about(workdir)["data"], options(data)
    changed = ", ".join(f"data.{name}" for name in _OPTIONS if saved[name] != now[name])
    if saved["corpus"] == data.corpus:
        files = "" if data.corpus == "files" else "--config.data.corpus=files "
        raise UserError(
            f"with other options than in training ({changed}), the {split} split is not the one "
            f"that was held out: {overlap} of {workdir}; leave these options out, or give "
            f"held-out text: {files}--config.data.{split}=FILE"
        )


def options(data: DataConfig) -> dict[str, Any]:
    """The options that decide what a split contains, with absolute paths."""
    data = with_absolute_paths(Config(data=data)).data
    return {name: getattr(data, name) for name in _OPTIONS}


def _file_hashes(data: DataConfig, split: str) -> dict[str, str]:
    """The SHA-256 of each file of this machine that a split is read from, by its absolute path."""
    files = [file for file in corpora.files(data, split) if not is_remote(file)]
    return {str(file.absolute()): manifest.sha256(file) for file in files}


def count_overlap(workdir: Path, pairs: Sequence[Pair]) -> Overlap:
    """How many of `pairs` the run of `workdir`, which has a record, was trained on."""
    straight, flipped = (_trained(workdir, each) for each in (pairs, [p[::-1] for p in pairs]))
    whole = straight["training_pairs"] | flipped["training_pairs"]
    return Overlap(int(whole.sum()), int((whole | straight["training_sources"]).sum()), len(pairs))


def _trained(workdir: Path, pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """Whether the training text has each of `pairs`, and whether it has each source; bool."""
    trained = {}
    for name, prints in _fingerprints(pairs).items():
        known = _read_prints(workdir, name)
        place = np.minimum(np.searchsorted(known, prints), len(known) - 1)
        trained[name] = known[place] == prints
    return trained


def _read_prints(workdir: Path, name: str) -> np.ndarray:
    path = workdir / FOLDER / f"{name}.npy"
    return np.load(io.BytesIO(path.read_bytes())) if is_remote(path) else np.load(path, "r")


def _fingerprints(pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """64 bits of a hash of each source and each pair; those of text that looks alike are equal.

    The tag and the code that begin a source are no part of it.
    """
    sides = ((normalize(without_code(s)).strip(), normalize(t)) for s, t in pairs)
    prints = (
        fingerprint(text) for source, target in sides for text in (source, f"{source}\t{target}")
    )
    sources, both = np.fromiter(prints, np.uint64, 2 * len(pairs)).reshape(-1, 2).T
    return {"training_sources": sources, "training_pairs": both}
