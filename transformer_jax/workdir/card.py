"""The card of a run, card.json in its workdir: what was trained, of what, on what, what it gave.

It is written when a training starts, at every checkpoint, and when it ends; --mode=evaluate adds
what it measured. A run that a kill ended has the state "running" for ever, or until it goes on.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from transformer_jax.console import log
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.errors import Preempted, UserError
from transformer_jax.evaluation.scores import bleu_signature
from transformer_jax.model import size
from transformer_jax.parallel import processes
from transformer_jax.storage import write_whole
from transformer_jax.training.prepared import DATA_FILE, Prepared
from transformer_jax.workdir.metrics import METRICS_FILE, is_number, read_metrics

CARD_FILE = "card.json"
_PACKAGES = (
    *("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *("flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece", "sacrebleu"),
)
# What makes two evaluations the same one, done again.
_SAME = ("split", "weights", "decode", "ensemble")
_GIT_SECONDS = 20


class Card:
    """The card of a training. Entered before it starts; leaving says how it ended."""

    def __init__(self, prepared: Prepared, *, since: float) -> None:
        """Writes nothing yet.

        Args:
          prepared: the training.
          since: the time.monotonic() from which this start's wall seconds count.
        """
        self._prepared, self._since = prepared, since
        self._facts: dict[str, Any] = {}  # none before `begin`

    def __enter__(self) -> "Card":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._facts:
            return
        asked = kind is not None and issubclass(kind, Preempted | KeyboardInterrupt)
        self._write("stopped" if asked else "failed" if kind else "finished")

    def begin(self, step: int, parameters: int) -> None:
        """Writes it: a training of so many parameters starts at `step`, 0 if it is new.

        Raises:
          UserError: if there is a card that is damaged.
        """
        workdir = self._prepared.workdir
        before = read(workdir) or {}
        again = before if step else {}
        config = self._prepared.config
        self._seconds_before, self._step = again.get("wall_seconds", 0.0), step
        self._signature = bleu_signature(config.data.target_language)
        rows = read_metrics(workdir / METRICS_FILE)
        self._validations = [
            {"step": row["step"], **row["valid"]}
            for row in rows
            if row.get("valid") and row["step"] <= step
        ]
        if not processes.is_writer():
            return
        kept = [e for e in _evaluations(before) if _last_step(e) <= step]
        self._facts = {
            "name": config.name,
            "state": "running",
            "started": again.get("started", _now()),
            "starts": again.get("starts", 0) + 1,
            "code": code(),
            "versions": versions(),
            "data": {
                "training_text": _data_hash(workdir),
                "validation_text": self._prepared.valid.text_hash(),
                "tokenizer": _tokenizer_hashes(workdir),
            },
            "devices": processes.facts(),
            "seed": config.seed,
            "parameters": parameters,
            "config": dataclasses.asdict(config),
        }
        self._write("running", kept)

    def reached(self, step: int) -> None:
        """The training has come to `step`."""
        self._step = step

    def validated(self, step: int, metrics: dict[str, float]) -> None:
        """What the validation of `step` gave."""
        finite = {name: v if math.isfinite(v) else None for name, v in metrics.items()}
        self._validations.append({"step": step, **finite})

    def update(self) -> None:
        """Writes how far it is."""
        if self._facts:
            self._write("running")

    def _write(self, state: str, evaluations: list[dict[str, Any]] | None = None) -> None:
        prepared = self._prepared
        if evaluations is None:  # one may have been added meanwhile
            with contextlib.suppress(UserError, OSError):
                evaluations = _evaluations(read(prepared.workdir) or {})
        source, target = prepared.data.tokens_seen(self._step)
        seconds = self._seconds_before + time.monotonic() - self._since
        about = {
            "state": state,
            "updated": _now(),
            "steps": self._step,
            "tokens": {"source": source, "target": target},
            "flops": self._step * size.step_flops(prepared.config)[0],
            "wall_seconds": round(seconds, 1),
            "results": {
                "validation": best(self._validations),
                "validation_bleu": f"greedy, {self._signature}",
                "evaluations": evaluations or [],
            },
        }
        _save(prepared.workdir, self._facts | about)


def read(workdir: Path) -> dict[str, Any] | None:
    """The card of `workdir`; None if it has none.

    Raises:
      UserError: if it is damaged.
    """
    path = workdir / CARD_FILE
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(found, dict) and isinstance(found["results"], dict)
        assert all(isinstance(e, dict) for e in _evaluations(found))
        assert all(_is_sane(value) for value in found.values())
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from None
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError):
        raise UserError(f"{path} is damaged: remove it, and the run goes on without it") from None
    return found


def _is_sane(value: Any) -> bool:
    """Whether its numbers can be computed with."""
    if isinstance(value, dict):
        return all(map(_is_sane, value.values()))
    if isinstance(value, list):
        return all(map(_is_sane, value))
    return type(value) not in (int, float) or is_number(value)


def add_evaluation(workdir: Path, evaluation: dict[str, Any]) -> None:
    """Notes on the card, if there is one, what an evaluation measured.

    It takes the place of an earlier one of the same split, weights, ensemble and decode options.

    Args:
      workdir: the evaluated one.
      evaluation: what scores.json says.

    Raises:
      UserError: if the card is damaged.
    """
    found = read(workdir)
    if found is None:
        return
    same = lambda e: all(e.get(name) == evaluation.get(name) for name in _SAME)  # noqa: E731
    others = [e for e in _evaluations(found) if not same(e)]
    found["results"]["evaluations"] = [*others, {**evaluation, "measured": _now()}]
    _save(workdir, found)


def _save(workdir: Path, card: dict[str, Any]) -> None:
    try:
        write_whole(workdir / CARD_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    except UserError as e:  # of all that a full disk costs, this is the least
        log(f"warning: {e}")


def _evaluations(card: dict[str, Any]) -> list[dict[str, Any]]:
    return list(card.get("results", {}).get("evaluations", []))


def _last_step(evaluation: dict[str, Any]) -> float:
    """The last step of the checkpoints that it used; of an ensemble, of this workdir's."""
    try:
        steps = evaluation["steps"]
        return max(steps[0] if evaluation.get("ensemble") else steps)
    except (LookupError, TypeError, ValueError):  # it does not say
        return math.inf


def best(validations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last validation, and those of the least loss and of the highest BLEU; {} without one.

    >>> best([{"step": 2, "loss": 1.5, "bleu": 7.0}, {"step": 4, "loss": 1.75, "bleu": 7.5}])
    {'last': {'step': 4, 'loss': 1.75, 'bleu': 7.5},
     'best_loss': {'step': 2, 'loss': 1.5, 'bleu': 7.0},
     'best_bleu': {'step': 4, 'loss': 1.75, 'bleu': 7.5}}

    Args:
      validations: in their order; loss in nats per token, BLEU 0–100, None where it is not finite.
    """
    found = {"last": validations[-1]} if validations else {}
    for name, sign in (("loss", 1), ("bleu", -1)):
        known = [row for row in validations if row.get(name) is not None]
        if known:
            found[f"best_{name}"] = min(known, key=lambda row: sign * row[name])
    return found


def versions() -> dict[str, str]:
    """Of Python and of what computes and scores, as far as it is installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def code() -> dict[str, str | None]:
    """The commit that the code is checked out of, and a hash of what differs from it.

    {"commit": "227a21c…", "uncommitted": 16 hexadecimal digits of SHA-256, or None: nothing};
    both are None if the code is in no checkout, or there is no git. Of the files that git does not
    track, those of Python differ too, unless git is told to ignore them.
    """
    nowhere = {"commit": None, "uncommitted": None}
    here = Path(__file__).resolve()
    # Installed into an environment that lies in some other repository, it would be that one's.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return nowhere
    commit = _git(here.parent, "rev-parse", "HEAD")
    changes = _git(here.parent, "diff", "--no-ext-diff", "--no-textconv", "--binary", "HEAD")
    untracked = _untracked(here.parent)
    if commit is None or changes is None or untracked is None:
        return nowhere
    changes += untracked
    return {"commit": commit.decode().strip(), "uncommitted": _hash(changes) if changes else None}


def _untracked(folder: Path) -> bytes | None:
    """The names and the contents of the Python files that git does not track; None without git."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None:
        return None
    root = Path(os.fsdecode(top.removesuffix(b"\n")))
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", "*.py")
    if listed is None:
        return None
    found = []
    for name in filter(None, sorted(listed.split(b"\0"))):
        with contextlib.suppress(OSError):  # it is gone, or a link to nothing
            content = (root / os.fsdecode(name)).read_bytes()
            found.append(b"%s\0%d\0%s" % (name, len(content), content))
    return b"".join(found)


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(
            command, capture_output=True, timeout=_GIT_SECONDS, check=True, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _data_hash(workdir: Path) -> str | None:
    path = workdir / DATA_FILE
    return path.read_text().strip() if path.exists() else None


def _tokenizer_hashes(workdir: Path) -> dict[str, str]:
    return {path.name: _hash(path.read_bytes()) for path in Tokenizers.files(workdir)}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
