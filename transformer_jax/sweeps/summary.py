"""The points of a sweep as a launcher sees them, and sweep.json, which lists them for programs.

A launcher that is killed leaves its points in sweep.json as "running". The next launcher corrects
that; the study itself is right at any moment, because it knows which launchers are alive.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError

SUMMARY = "sweep.json"
STATES = ("running", "interrupted", "failed", "pruned", "finished", "waiting")
ENDED = ("finished", "pruned", "failed")


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a sweep, as its study knows it.

    Attributes:
      name: also the name of its workdir.
      overrides: values of options, by dotted name.
      state: one of STATES.
      value: the validation loss of a point that has ended; see `average.validation`.
      reason: why it failed.
      trial_id: Optuna's number for it.
    """

    name: str
    overrides: dict[str, Any]
    state: str
    value: float | None = None
    reason: str = ""
    trial_id: int = -1


def count(points: Sequence[Point]) -> str:
    """How many points are in each state: "2 running, 1 failed, 17 waiting"."""
    states = [point.state for point in points]
    return ", ".join(f"{states.count(s)} {s}" for s in STATES if s in states) or "no points"


def conclude(points: Sequence[Point], *, search: bool) -> list[str]:
    """The last lines of a sweep whose points have ended; a `search` does not retry failed ones."""
    failed = [point for point in points if point.state == "failed"]
    if failed:
        retry = "--sweep_trials=MORE adds others" if search else "the same command retries them"
        return [
            *(f"{point.name}: failed: {point.reason}" for point in failed),
            f"error: {len(failed)} of {len(points)} points failed: "
            f"see log.txt in their workdirs; {retry}",
        ]
    finished = [point for point in points if point.state == "finished"]
    best = min(finished, key=lambda p: p.value, default=None)
    least = f"; the least validation loss is {best.value:.4f}, of {best.name}" if best else ""
    return [f"{count(points)}{least}"]


def write(path: Path, about: Mapping[str, Any], points: Sequence[Point]) -> None:
    """Writes sweep.json: `about`, and then the points.

    Raises:
      UserError: if it cannot be written.
    """
    fields = ("name", "overrides", "state", "value", "reason")
    listed = [{f: getattr(p, f) for f in fields} | {"workdir": p.name} for p in points]
    text = json.dumps({**about, "points": listed}, indent=2, ensure_ascii=False) + "\n"
    # storage.write_whole has one temporary name for a file, and another launcher may be writing.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror}") from None
