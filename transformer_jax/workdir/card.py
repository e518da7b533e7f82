"""The card of a run, card.json in its workdir: what computed it, on which text, and how far it is.

It is written when a training starts, at every checkpoint, and when it ends; `--mode=evaluate` adds
its scores. A run that was killed keeps the state "running" until it is resumed.
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
from types import TracebackType
from typing import Any

from transformer_jax.console import log
from transformer_jax.errors import Preempted, UserError
from transformer_jax.parallel import processes
from transformer_jax.storage import write_whole
from transformer_jax.workdir.metrics import is_number

CARD_FILE = "card.json"
_PACKAGES = (
    *("transformer_jax", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *("flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece", "sacrebleu"),
)
# Two evaluations that agree in these are the same one, repeated.
_SAME = ("split", "weights", "decode", "ensemble")
_GIT_SECONDS = 20


@dataclasses.dataclass(frozen=True)
class About:
    """The facts of a training that its card records.

    Attributes:
      seed: of the configuration.
      parameters: the number of parameters.
      step_flops: what the model needs for a step over a global batch.
      hashes: of the texts and the tokenizers, by name.
      tokens_seen: (real source tokens, real target tokens) of the first so many steps.
      validation_bleu: how the BLEU of metrics.jsonl is computed, with sacrebleu's signature.
    """

    seed: int
    parameters: int
    step_flops: int
    hashes: dict[str, Any]
    tokens_seen: Callable[[int], tuple[int, int]]
    validation_bleu: str


class Card:
    """The card of a training. Enter it before the training starts; leaving records how it ended."""

    def __init__(self, workdir: Path, *, since: float) -> None:
        """Writes nothing yet.

        Args:
          workdir: of the run.
          since: the time.monotonic() from which this start's wall time counts.
        """
        self._workdir, self._since = workdir, since
        self._about: About | None = None  # until `begin`

    def __enter__(self) -> "Card":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        on_request = kind is not None and issubclass(kind, Preempted | KeyboardInterrupt)
        self._write("stopped" if on_request else "failed" if kind else "finished")

    def begin(self, step: int, about: About) -> None:
        """Writes the card of a training that starts at `step`; 0 = a new one.

        Raises:
          UserError: if there is a card that is damaged.
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
        # Evaluations of steps that will be trained again are dropped.
        self._write("running", [e for e in _evaluations(earlier) if _last_step(e) <= step])

    def reached(self, step: int) -> None:
        """The training has reached `step`."""
        self._step = step

    def update(self) -> None:
        """Writes how far the training is."""
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
    """The card of `workdir`; None if it has none. Earlier versions wrote more into it.

    Raises:
      UserError: if it is damaged.
    """
    path = workdir / CARD_FILE
    if not path.exists():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        card["results"].setdefault("evaluations", [])
        sound = _is_sane(card) and all(isinstance(e, dict) for e in _evaluations(card))
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise UserError(f"{path} is damaged: remove it, and the run continues without it")
    return card


def _is_sane(value: Any) -> bool:
    """Whether all numbers in it can be computed with."""
    if isinstance(value, dict | list):
        return all(map(_is_sane, value.values() if isinstance(value, dict) else value))
    return type(value) not in (int, float) or is_number(value)


def add_evaluation(workdir: Path, evaluation: dict[str, Any]) -> None:
    """Adds an evaluation to the card, if there is a card.

    It replaces an earlier one of the same split, weights, ensemble and decode options.

    Args:
      workdir: the one that was evaluated.
      evaluation: the content of scores.json.

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
    """The last step of the checkpoints that it used; of an ensemble, of this workdir's."""
    try:
        steps = evaluation["steps"]
        return max(steps[0] if evaluation.get("ensemble") else steps)
    except (LookupError, TypeError, ValueError):  # not recorded
        return math.inf


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that compute and score."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def code() -> dict[str, str | None]:
    """The commit that the code is checked out of: {"commit": "227a21c…", "describe": "v1-3-g…"}.

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
