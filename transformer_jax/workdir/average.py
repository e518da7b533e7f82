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
    path = workdir / AVERAGE_FILE
    if not steps or not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        last_step, found = content["last_step"], set(content["chosen"])
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{path} is damaged ({e!r}): remove it, and the last are averaged"
        ) from None
    if last_step != steps[-1]:
        return []
    if missing := sorted(found - set(steps)):
        log(f"warning: {path} names the checkpoint of step {missing[0]}, which is gone")
    return [step for step in steps if step in found]
