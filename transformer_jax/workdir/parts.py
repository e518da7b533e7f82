"""Which tokenizers and which model a checkpoint was trained with.

The parts of a workdir can be copied one by one, and a tokenizer of the same size fits any model. So
a checkpoint lists the hashes of the tokenizers' files and the options of its model.
"""

import json
from pathlib import Path
from typing import Any

from transformer_jax.config.files import CONFIG_FILE
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import OPTIONS
from transformer_jax.errors import UserError
from transformer_jax.storage import write_whole
from transformer_jax.workdir import manifest

NAME = "trained_with.json"  # in a checkpoint
# The tokenizer of both sides; or one of each side, and its vocabulary if it was imported.
TOKENIZER_FILE = "tokenizer.model"
SIDE_FILES = ("tokenizer.source.model", "tokenizer.target.model")
VOCABULARIES_FILE = "vocabularies.json"


def tokenizer_hashes(workdir: Path) -> dict[str, str]:
    """The first 16 hexadecimal digits of the SHA-256 of each file of the tokenizers."""
    files = [workdir / name for name in (TOKENIZER_FILE, *SIDE_FILES, VOCABULARIES_FILE)]
    return {file.name: manifest.sha256(file)[:16] for file in files if file.exists()}


def write(checkpoint: Path) -> None:
    """Lists the parts of the workdir in a checkpoint."""
    content = json.dumps(_parts(checkpoint.parent.parent), indent=2, ensure_ascii=False)
    write_whole(checkpoint / NAME, content + "\n")


def check(checkpoint: Path) -> None:
    """Compares the workdir with what a checkpoint, whose files are undamaged, was trained with.

    Raises:
      UserError: if a tokenizer or an option of the model differs. Checkpoints of earlier versions,
        which have no list, are not compared.
    """
    path, workdir = checkpoint / NAME, checkpoint.parent.parent
    if not path.exists():
        return
    try:
        then, now = json.loads(path.read_text(encoding="utf-8")), _parts(workdir)
    except ValueError as e:
        raise UserError(f"{path} or {workdir / CONFIG_FILE} is damaged ({e})") from None
    for name in sorted(then["tokenizers"] | now["tokenizers"]):
        old, new = (parts["tokenizers"].get(name, "no file") for parts in (then, now))
        if old != new:
            raise UserError(
                f"{workdir / name} is not the one that checkpoint {checkpoint.name} was trained "
                f"with (SHA-256 {old} then, {new} now): restore it from a copy"
            )
    for name in then["model"].keys() & now["model"].keys():
        old, new = (parts["model"][name] for parts in (then, now))
        # The file of word vectors may have moved since.
        if old != new and not OPTIONS[f"model.{name}"].allows(old, new, Change.ON_RESUME):
            raise UserError(
                f"{workdir / CONFIG_FILE} has model.{name}={new!r}, but checkpoint "
                f"{checkpoint.name} was trained with {old!r}: restore it from a copy"
            )


def check_last(workdir: Path) -> None:
    """Compares the workdir with its last checkpoint, if it has one; see `check`."""
    for step in manifest.complete(workdir / manifest.FOLDER)[-1:]:
        check(workdir / manifest.FOLDER / str(step))


def _parts(workdir: Path) -> dict[str, Any]:
    config = workdir / CONFIG_FILE
    saved = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    return {"tokenizers": tokenizer_hashes(workdir), "model": saved.get("model", {})}
