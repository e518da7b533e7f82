"""What a run tells: metrics.jsonl always, a progress bar on a terminal, TensorBoard files."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from transformer_jax import parallel
from transformer_jax.config import UserError, is_remote, write_whole

METRICS_FILE = "metrics.jsonl"

# A bucket's file is written whole each time.
_SECONDS_BETWEEN_SAVES = 60


def say(message: str) -> None:
    """One line to standard error, above a progress bar if there is one; from one process."""
    if not parallel.is_writer():
        return
    tqdm.write(message, file=sys.stderr)


def progress_bar(total: int, description: str) -> tqdm:
    """A bar on a terminal, nothing elsewhere."""
    disable = None if parallel.is_writer() else True
    return tqdm(total=total, desc=description, disable=disable, leave=False, dynamic_ncols=True)


_TRACE_AFTER, _TRACED = 10, 5
PROFILED_CALLS = _TRACE_AFTER + _TRACED


def profiled(step: Callable[..., Any], folder: str) -> Any:
    """`step`, with a jax profiler trace in `folder` of some calls once compiling is over.

    It is written after `PROFILED_CALLS` calls.
    """
    calls = 0

    def traced(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == _TRACE_AFTER:
            jax.profiler.start_trace(folder)
        result = step(*arguments)
        if calls == PROFILED_CALLS:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            say(f"a trace of {_TRACED} steps is in {folder}")
        return result

    return traced


class Tracker:
    """Writes the metrics of one run; a restart goes on where the restored step left off."""

    def __init__(
        self, workdir: Path, *, first_step: int, num_steps: int, log_every: int, tensorboard: bool
    ) -> None:
        """`first_step` is the step restored (0 = none); metrics after it are written anew."""
        writer = parallel.is_writer()
        self._path = workdir / METRICS_FILE if writer else Path(os.devnull)
        _forget_after(self._path, first_step)
        self._file = _BucketFile(self._path) if is_remote(self._path) else self._path.open("a")
        board = tensorboard and writer
        self._board = _summary_writer(workdir / "tensorboard", first_step) if board else None
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            disable=None if writer else True,
            unit="step",
            dynamic_ncols=True,
        )
        self._num_steps, self._log_every = num_steps, log_every
        self._step = first_step
        self.restart_clock()

    def train_step(self, step: int, metrics: dict[str, float]) -> None:
        """Takes every step's metrics; writes and shows those of each `log_every`-th."""
        self._bar.update(1)
        self._step = step
        self._tokens += metrics["source_tokens"] + metrics["target_tokens"]
        if step % self._log_every and step != self._num_steps:
            return
        seconds = max(time.monotonic() - self._since, 1e-9)
        rate = self._tokens / seconds
        left = (self._num_steps - step) * seconds / max(step - self._since_step, 1)
        self.restart_clock()
        self.write(step, {"train": metrics | {"tokens_per_second": rate}})
        self._bar.set_postfix_str(f"loss {metrics['loss']:.3f}, {rate:,.0f} tokens/s")
        if self._bar.disable:
            say(
                f"step {step}/{self._num_steps}  loss {metrics['loss']:.3f}  "
                f"{rate:,.0f} tokens/s  {_clock(left)} left"
            )

    def write(self, step: int, groups: dict[str, dict[str, Any]]) -> None:
        """Appends {"step": …, "train": {…}} to metrics.jsonl and to TensorBoard.

        What JSON has no number for, inf and nan, is null there. A full disk is no reason to stop.
        """
        finite = {
            group: {name: v if math.isfinite(v) else None for name, v in metrics.items()}
            for group, metrics in groups.items()
        }
        try:
            self._file.write(json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
            self._file.flush()
        except OSError as e:
            say(f"warning: {self._path.name} lacks step {step}: {e.strerror or e}")
        for group, metrics in groups.items() if self._board else ():
            for name, value in metrics.items():
                self._board.add_scalar(f"{group}/{name}", value, step)

    def restart_clock(self) -> None:
        """Measures speed from here: what happened between steps (evaluation) is left out."""
        self._tokens, self._since, self._since_step = 0.0, time.monotonic(), self._step

    def flush(self) -> None:
        """Puts in its place what would be lost if the run ended now."""
        if isinstance(self._file, _BucketFile):
            self._file.save()

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._bar.close()
        self._file.close()
        if self._board:
            self._board.close()


class _BucketFile:
    """Lines of text at the end of a file in a bucket, which is written anew now and then."""

    def __init__(self, path: Path) -> None:
        self._path, self._saved_at = path, time.monotonic()
        self._text = path.read_text() if path.exists() else ""

    def write(self, line: str) -> None:
        self._text += line

    def flush(self) -> None:
        """Saves, unless it did within the last minute."""
        if time.monotonic() - self._saved_at >= _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        write_whole(self._path, self._text)
        self._saved_at = time.monotonic()

    close = save


def bleu_scores(workdir: Path) -> dict[int, float]:
    """Validation BLEU of a run so far, by step; {} if there is none."""
    rows = read_metrics(workdir / METRICS_FILE)
    return {row["step"]: row["valid"]["bleu"] for row in rows if row.get("valid")}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl holds, without a last line that was cut short; nothing if it is not there.

    Raises:
      UserError: if it is damaged elsewhere.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    try:
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        assert all(isinstance(row["step"], int) for row in rows)
    except (ValueError, TypeError, KeyError, AssertionError):
        raise UserError(f"{path} is damaged: remove it, and the run goes on without it") from None
    return rows


def _forget_after(path: Path, step: int) -> None:
    if not path.exists() or not path.is_file():
        return
    kept = [json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step]
    write_whole(path, "".join(kept))


def _summary_writer(folder: Path, first_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        say("no TensorBoard files: `pip install tensorboardX`, or --config.train.tensorboard=False")
        return None
    return SummaryWriter(str(folder), purge_step=first_step + 1)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
