"""The files that a run appends to: metrics.jsonl and samples.jsonl, one JSON object per line.

Imports no jax.
"""

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformer_jax.errors import UserError
from transformer_jax.storage import is_remote, write_whole

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"  # translations of a few validation sentences, as the model learns
_SECONDS_BETWEEN_SAVES = 60  # of a file in a bucket, which is rewritten each time


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; [] if there is no file. An incomplete last line is ignored.

    Each row has an integer "step"; the groups "train" and "valid" hold numbers or null.

    Raises:
      UserError: if another line is damaged, or the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        # Not by splitlines: JSON strings may hold other characters that end a line for Python.
        rows = [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]
    except (ValueError, RecursionError):
        rows = [None]
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}") from None
    if not all(map(_is_row, rows)):
        raise UserError(f"{path} is damaged: remove it, and the run continues without it")
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    groups = [row.get(name, {}) for name in ("train", "valid")]
    if not all(isinstance(group, dict) for group in groups):
        return False
    values = [value for group in groups for value in group.values() if value is not None]
    # JSON has integers of any length, and nan.
    return all(type(v) in (int, float) and abs(v) < 1e100 for v in [row["step"], *values])


def validations(workdir: Path) -> dict[int, dict[str, float | None]]:
    """The validations of a run so far, by step: {100: {"loss": 2.1, "bleu": 20.3}, …}."""
    rows = read_metrics(workdir / METRICS_FILE)
    return {row["step"]: row["valid"] for row in rows if "valid" in row}


def bleu_scores(workdir: Path) -> dict[int, float]:
    """The validation BLEU of a run so far, by step."""
    scores = {step: row.get("bleu") for step, row in validations(workdir).items()}
    return {step: bleu for step, bleu in scores.items() if bleu is not None}


def skipped_steps(workdir: Path) -> int:
    """The number of steps that a run has skipped so far."""
    rows = [row["train"] for row in read_metrics(workdir / METRICS_FILE) if "train" in row]
    return int(rows[-1].get("skipped") or 0) if rows else 0


def remove_rows_after(path: Path, step: int) -> None:
    """Removes the rows of later steps, which will be trained again."""
    keep_rows(path, lambda row: row["step"] <= step)


def keep_rows(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Removes the rows that are not wanted, and an incomplete last line."""
    if path.is_file():
        write_whole(path, "".join(_line(row) for row in read_metrics(path) if wanted(row)))


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


class Appender:
    """Appends rows to a file. While the disk is full, rows wait in memory, with a warning."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        """Opens `path` for appending; `warn` is called with each problem."""
        self._path, self._warn = path, warn
        self._file = _BucketFile(path) if is_remote(path) else _LocalFile(path)
        self._waits = False

    def append(self, row: dict[str, Any]) -> None:
        """Appends a row; inf and nan, which JSON lacks, become null."""
        self._file.add(_line(_finite(row)))
        self._try(self._file.flush)

    def save(self) -> None:
        """Saves the rows that would be lost if the process were killed now."""
        self._try(self._file.save)

    def close(self) -> None:
        """Saves, and closes the file."""
        self.save()
        if self._waits:
            self._warn(f"warning: {self._path.name} lacks its last rows")
        self._file.close()

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
            self._waits = False
        except (OSError, UserError) as e:
            if not self._waits:
                reason = getattr(e, "strerror", None) or e
                self._warn(f"warning: {self._path.name} cannot be written yet: {reason}")
            self._waits = True


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(v) for name, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _LocalFile:
    """Bytes at the end of a file. Those that do not fit on the disk are written later."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        self._file, self._waiting = os.open(path, flags, 0o666), b""

    def add(self, line: str) -> None:
        self._waiting += line.encode()

    def save(self) -> None:
        while self._waiting:  # a nearly full disk takes only a part
            self._waiting = self._waiting[os.write(self._file, self._waiting) :]

    flush = save

    def close(self) -> None:
        os.close(self._file)


class _BucketFile:
    """Lines at the end of a file in a bucket, where each save rewrites the whole file."""

    def __init__(self, path: Path) -> None:
        self._path, self._saved_at = path, time.monotonic()
        self._text = path.read_bytes().decode() if path.exists() else ""

    def add(self, line: str) -> None:
        self._text += line

    def flush(self) -> None:
        """Saves, but at most once a minute."""
        if time.monotonic() - self._saved_at >= _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        write_whole(self._path, self._text)
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Nothing is open."""
