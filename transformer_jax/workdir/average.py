"""average.json: the average of checkpoints that validation has chosen, and those that lost."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer_jax.console import log
from transformer_jax.errors import UserError
from transformer_jax.storage import write_whole

AVERAGE_FILE = "average.json"


def record(workdir: Path, last_step: int, rows: Sequence[dict[str, Any]]) -> None:
    """Writes the averages that were compared after `last_step`, the chosen one first.

    Each is {"steps": […], "bleu": …, "loss": …}.
    """
    content = {"last_step": last_step, "chosen": rows[0]["steps"], "compared": list(rows)}
    write_whole(workdir / AVERAGE_FILE, json.dumps(content, indent=2) + "\n")


def chosen(workdir: Path, steps: Sequence[int]) -> list[int]:
    """Those of `steps`, the run's checkpoints in ascending order, that the chosen average has.

    [] if none was chosen, or the run went on after the choice.

    Raises:
      UserError: if the file is damaged.
    """
    last_step, best = _read(workdir)
    if not steps or last_step != steps[-1]:
        return []
    found = set(best["steps"])
    if missing := sorted(found - set(steps)):
        path = workdir / AVERAGE_FILE
        log(f"warning: {path} names the checkpoint of step {missing[0]}, which is gone")
    return [step for step in steps if step in found]


def validation(workdir: Path, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What validation found of the weights that a run is used with.

    They are the chosen average, unless the run went on after the choice; else those of the last
    validation.

    Args:
      workdir: of the run.
      rows: of its metrics.jsonl.

    Returns:
      {"steps": […], "loss": …, "bleu": …}; {} if there is no validation.

    Raises:
      UserError: if average.json is damaged.
    """
    last_step, best = _read(workdir)
    if best and last_step >= max((row["step"] for row in rows), default=0):
        return best
    last = next((row for row in reversed(rows) if "valid" in row), None)
    return {"steps": [last["step"]], **last["valid"]} if last else {}


def _read(workdir: Path) -> tuple[int, dict[str, Any]]:
    """The last step before the choice, and the row of the chosen average; -1 without a file."""
    path = workdir / AVERAGE_FILE
    if not path.exists():
        return -1, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        best = content["compared"][0]
        if best["steps"] != content["chosen"]:
            raise ValueError("chosen is not the first of compared")
        return int(content["last_step"]), best
    except (ValueError, KeyError, IndexError, TypeError) as e:
        raise UserError(
            f"{path} is damaged ({e!r}): remove it, and the last are averaged"
        ) from None
