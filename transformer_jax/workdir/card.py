"""The card of a run, card.json: the code, machine and text that made it, and its progress.

Training writes it at the start, at every checkpoint and at the end; `--mode=evaluate` adds its
scores. A run that was killed keeps the state "running" until it is resumed.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformer_jax.console import log
from transformer_jax.errors import Preempted, UserError
from transformer_jax.parallel import processes
from transformer_jax.storage import write_whole

CARD_FILE = "card.json"
_PACKAGES = (
    *("transformer_jax", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *("flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece", "sacrebleu"),
)
# An evaluation that agrees with an earlier one in these replaces it.
_SAME = ("split", "weights", "decode", "ensemble", "reverse")
_GIT_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class About:
    """The facts of a training that its card records.

    Attributes:
      seed: the seed of the configuration.
      parameters: the number of parameters.
      step_flops: the FLOPs that the model needs for one global batch.
      hashes: the hashes of the texts and the tokenizers, by name.
      tokens_seen: returns the real (source tokens, target tokens) of that many first steps.
      validation_bleu: how the BLEU of metrics.jsonl is computed, with sacrebleu's signature.
      parent: which weights of another run it begins with; None = none, or it began before.
    """

    seed: int
    parameters: int
    step_flops: int
    hashes: dict[str, Any]
    tokens_seen: Callable[[int], tuple[int, int]]
    validation_bleu: str
    parent: dict[str, Any] | None = None


class Card:
    """The card of a training: a context in which the training runs, and which records its end."""

    def __init__(self, workdir: Path, *, since: float) -> None:
        """`since` is the time.monotonic() from which the wall time of this start counts."""
        self._workdir, self._since = workdir, since
        self._about: About | None = None  # until `begin`

    def __enter__(self) -> "Card":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        on_request = kind is not None and issubclass(kind, Preempted | KeyboardInterrupt)
        self._write("stopped" if on_request else "failed" if kind else "finished")

    def begin(self, step: int, about: About) -> None:
        """Writes the card of a training that starts at `step`; 0 = a new one.

        Raises:
          UserError: if the workdir has a damaged card.
        """
        earlier = read(self._workdir) or {}
        resumed = earlier if step else {}
        self._seconds_before, self._step = resumed.get("wall_seconds", 0.0), step
        if not processes.is_writer():
            return
        self._about = about
        self._facts = {
            "state": "running",
            "started": resumed.get("started", _now()),
            "starts": resumed.get("starts", 0) + 1,
            "code": code(),
            "versions": versions(),
            "data": about.hashes,
            "devices": processes.facts(),
            "seed": about.seed,
            "parameters": about.parameters,
        }
        if parent := about.parent or earlier.get("parent"):
            self._facts["parent"] = parent
        # Evaluations of steps that will be trained again are dropped.
        self._write("running", [e for e in _evaluations(earlier) if _last_step(e) <= step])

    def reached(self, step: int) -> None:
        """Records that the training has reached `step`, for the next `update`."""
        self._step = step

    def update(self) -> None:
        """Writes the progress of the training."""
        self._write("running")

    def _write(self, state: str, evaluations: list[dict[str, Any]] | None = None) -> None:
        if self._about is None:
            return
        if evaluations is None:  # one may have been added meanwhile
            with contextlib.suppress(UserError):
                evaluations = _evaluations(read(self._workdir) or {})
        source, target = self._about.tokens_seen(self._step)
        seconds = self._seconds_before + time.monotonic() - self._since
        progress = {
            "state": state,
            "updated": _now(),
            "steps": self._step,
            "tokens": {"source": source, "target": target},
            "flops": self._step * self._about.step_flops,
            "wall_seconds": round(seconds, 1),
            "results": {
                "validation_bleu": self._about.validation_bleu,
                "evaluations": evaluations or [],
            },
        }
        _save(self._workdir, self._facts | progress)


def read(workdir: Path) -> dict[str, Any] | None:
    """The card of `workdir`; None if it has none. Cards of earlier versions hold more.

    Raises:
      UserError: if it is damaged or cannot be read.
    """
    path = workdir / CARD_FILE
    if not path.exists():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        card.setdefault("results", {}).setdefault("evaluations", [])
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from None
    except (ValueError, AttributeError):
        raise UserError(f"{path} is damaged: remove it, and the run continues without it") from None
    return card


def add_evaluation(workdir: Path, evaluation: dict[str, Any]) -> None:
    """Adds the content of scores.json to the card of `workdir`, if there is a card.

    It replaces an earlier evaluation that agrees with it in all of `_SAME`.

    Raises:
      UserError: if the card is damaged.
    """
    card = read(workdir)
    if card is None:
        return
    same = lambda e: all(e.get(name) == evaluation.get(name) for name in _SAME)  # noqa: E731
    others = [e for e in _evaluations(card) if not same(e)]
    card["results"]["evaluations"] = [*others, {**evaluation, "measured": _now()}]
    _save(workdir, card)


def _save(workdir: Path, card: dict[str, Any]) -> None:
    try:
        write_whole(workdir / CARD_FILE, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    except UserError as e:  # a full disk does not stop a training
        log(f"warning: {e}")


def _evaluations(card: dict[str, Any]) -> list[dict[str, Any]]:
    return list(card.get("results", {}).get("evaluations", []))


def _last_step(evaluation: dict[str, Any]) -> float:
    """The last step among the checkpoints that were evaluated, in an ensemble this workdir's."""
    try:
        steps = evaluation["steps"]
        return max(steps[0] if evaluation.get("ensemble") else steps)
    except (LookupError, TypeError, ValueError):  # not recorded
        return math.inf


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def code() -> dict[str, str | None]:
    """The commit of the code's checkout: {"commit": "227a21c…", "describe": "v1-3-g227a21c"}.

    "describe" is what `git describe` prints; it ends in "-dirty" if tracked files differ from the
    commit. Both are None if the code is in no checkout, or git is missing.
    """
    folder, name = Path(__file__).resolve().parent, Path(__file__).name
    # Code that is installed in an environment inside another repository has no commit there.
    tracked = _git(folder, "ls-files", "--error-unmatch", name) is not None
    return {
        "commit": _git(folder, "rev-parse", "HEAD") if tracked else None,
        "describe": _git(folder, "describe", "--always", "--dirty") if tracked else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(
            command, capture_output=True, timeout=_GIT_SECONDS, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
