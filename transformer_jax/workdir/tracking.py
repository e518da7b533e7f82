"""What a run tells: rows of metrics.jsonl and samples.jsonl, a progress bar, TensorBoard files."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from transformer_jax.console import clock, log
from transformer_jax.parallel import processes
from transformer_jax.workdir.metrics import (
    METRICS_FILE,
    SAMPLES_FILE,
    Appender,
    bleu_scores,
    forget_rows_after,
    keep_rows,
)
from transformer_jax.workdir.tensorboard import Board


class Pace:
    """How fast steps are made: a bar on a terminal, or now and then a line."""

    def __init__(self, *, first_step: int, num_steps: int, shown: bool) -> None:
        """`first_step` steps are made; not `shown`, it measures alone."""
        self._line = shown
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            disable=None if shown and processes.is_writer() else True,
            unit="step",
            dynamic_ncols=True,
        )
        self._num_steps, self._step = num_steps, first_step
        self.restart()

    def add(self, step: int, tokens: float) -> None:
        """Counts a step, of so many real tokens."""
        self._bar.update(1)
        self._step = step
        self._tokens += tokens

    def lap(self, text: str) -> float:
        """Real tokens a second since the last lap; shown, with `text`."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        rate = self._tokens / seconds
        left = (self._num_steps - self._step) * seconds / max(self._step - self._since_step, 1)
        self.restart()
        self._bar.set_postfix_str(f"{text}, {rate:,.0f} tokens/s")
        if self._bar.disable and self._line:
            log(
                f"step {self._step}/{self._num_steps}  {text}  {rate:,.0f} tokens/s  "
                f"{clock(left)} left"
            )
        return rate

    def restart(self) -> None:
        """Measures speed from here: what happened between steps (evaluation) is left out."""
        self._tokens, self._since, self._since_step = 0.0, time.monotonic(), self._step

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


class Tracker:
    """Writes the metrics of one run; a restart goes on where the restored step left off."""

    def __init__(
        self,
        workdir: Path,
        *,
        first_step: int,
        num_steps: int,
        log_every: int,
        tensorboard: bool,
        shown: bool = True,
    ) -> None:
        """`first_step` is the step restored (0 = none); metrics after it are written anew.

        Not `shown`, it has no bar and says nothing of steps.
        """
        writer = processes.is_writer()
        path = workdir / METRICS_FILE if writer else Path(os.devnull)
        forget_rows_after(path, first_step)
        self._rows = Appender(path, log)
        samples = workdir / SAMPLES_FILE if writer else Path(os.devnull)
        # A step whose metrics were not written any more is validated again.
        validated = bleu_scores(workdir)
        keep_rows(samples, lambda row: row["step"] in validated)
        self._samples = Appender(samples, log)
        self._board = _board(workdir, first_step) if tensorboard and writer else None
        self._pace = Pace(first_step=first_step, num_steps=num_steps, shown=shown)
        self._num_steps, self._log_every = num_steps, log_every
        self._first_step = first_step

    def train_step(self, step: int, metrics: dict[str, float]) -> None:
        """Takes every step's metrics; writes and shows those of each `log_every`-th.

        Also those of a step that was skipped, which are not finite.
        """
        self._pace.add(step, metrics["source_tokens"] + metrics["target_tokens"])
        due = step % self._log_every == 0 or step == self._num_steps
        if not due and all(map(math.isfinite, metrics.values())):
            return
        rate = self._pace.lap(f"loss {metrics['loss']:.3f}")
        self.write(step, {"train": metrics | {"tokens_per_second": rate}})

    def write(self, step: int, groups: dict[str, dict[str, Any]]) -> None:
        """Appends {"step": …, "train": {…}} to metrics.jsonl and to TensorBoard.

        What JSON has no number for, inf and nan, is null there. A full disk is no reason to stop.
        """
        self._rows.append({"step": step, "time": time.time(), **groups})
        if self._board:
            self._board.scalars(step, groups)

    def write_samples(self, step: int, samples: Sequence[dict[str, str]]) -> None:
        """Appends {"step": …, "source": …, …} of each sample to samples.jsonl, and to TensorBoard.

        To be called before the same step's validation is written.
        """
        for number, sample in enumerate(samples, start=1):
            self._samples.append({"step": step, **sample})
            if self._board:
                lines = [f"{name:11}  {text}" for name, text in sample.items()]
                self._board.text(step, f"samples/{number}", lines)
        self._samples.save()

    def write_options(self, options: Mapping[str, Any]) -> None:
        """Gives TensorBoard the run's options, by dotted name."""
        if self._board:
            self._board.options(self._first_step, options, ("valid/loss", "valid/bleu"))

    def restart_clock(self) -> None:
        """See `Pace.restart`."""
        self._pace.restart()

    def flush(self) -> None:
        """Puts in its place what would be lost if the run ended now."""
        self._rows.save()
        self._samples.save()
        if self._board:
            self._board.flush()

    def close(self) -> None:
        """Ends the bar and closes the files."""
        self._pace.close()
        self._rows.close()
        self._samples.close()
        if self._board:
            self._board.close()


def _board(workdir: Path, first_step: int) -> Board | None:
    try:
        return Board(workdir, first_step, log)
    except ImportError:
        log("no TensorBoard files: `pip install tensorboardX`, or --config.train.tensorboard=False")
        return None
