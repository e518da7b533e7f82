"""Tracks a run in metrics.jsonl, samples.jsonl, a progress bar and TensorBoard's files."""

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
    keep_rows,
    remove_rows_after,
)
from transformer_jax.workdir.tensorboard import Board


class Progress:
    """The progress and the speed of a training: a bar on a terminal, lines elsewhere."""

    def __init__(self, *, first_step: int, num_steps: int) -> None:
        """`first_step` is the number of steps already trained."""
        self._bar = tqdm(
            total=num_steps,
            initial=first_step,
            disable=None if processes.is_writer() else True,
            unit="step",
            dynamic_ncols=True,
        )
        self._num_steps, self._step = num_steps, first_step
        self.restart_clock()

    def add(self, step: int, tokens: float) -> None:
        """Counts a step and its real tokens."""
        self._bar.update(1)
        self._step = step
        self._tokens += tokens

    def report(self, text: str) -> float:
        """Shows `text` and the speed since the last report, in real tokens/s; returns the speed."""
        seconds = max(time.monotonic() - self._since, 1e-9)
        rate = self._tokens / seconds
        left = (self._num_steps - self._step) * seconds / max(self._step - self._since_step, 1)
        self.restart_clock()
        self._bar.set_postfix_str(f"{text}, {rate:,.0f} tokens/s")
        if self._bar.disable:
            log(
                f"step {self._step}/{self._num_steps}  {text}  {rate:,.0f} tokens/s  "
                f"{clock(left)} left"
            )
        return rate

    def restart_clock(self) -> None:
        """Measures the speed from now on, which excludes validation and other pauses."""
        self._tokens, self._since, self._since_step = 0.0, time.monotonic(), self._step

    def close(self) -> None:
        """Closes the bar."""
        self._bar.close()


class Tracker:
    """Writes the metrics of one run; a restart continues from the restored step."""

    def __init__(
        self, workdir: Path, *, first_step: int, num_steps: int, log_every: int, tensorboard: bool
    ) -> None:
        """`first_step` is the step restored (0 = none); rows of later steps are removed."""
        writer = processes.is_writer()
        path = workdir / METRICS_FILE if writer else Path(os.devnull)
        remove_rows_after(path, first_step)
        self._rows = Appender(path, log)
        samples = workdir / SAMPLES_FILE if writer else Path(os.devnull)
        # A step whose validation is missing in metrics.jsonl is validated again.
        validated = bleu_scores(workdir)
        keep_rows(samples, lambda row: row["step"] in validated)
        self._samples = Appender(samples, log)
        self._board = _board(workdir, first_step) if tensorboard and writer else None
        self._progress = Progress(first_step=first_step, num_steps=num_steps)
        self._num_steps, self._log_every = num_steps, log_every
        self._first_step = first_step

    def train_step(self, step: int, metrics: dict[str, float]) -> None:
        """Counts a step; writes and shows its metrics if it is a multiple of `log_every`.

        Metrics that are not finite, of a skipped step, are always written.
        """
        self._progress.add(step, metrics["source_tokens"] + metrics["target_tokens"])
        due = step % self._log_every == 0 or step == self._num_steps
        if not due and all(map(math.isfinite, metrics.values())):
            return
        rate = self._progress.report(f"loss {metrics['loss']:.3f}")
        self.write(step, {"train": metrics | {"tokens_per_second": rate}})

    def write(self, step: int, groups: dict[str, dict[str, Any]]) -> None:
        """Appends {"step": …, "train": {…}} to metrics.jsonl and to TensorBoard.

        inf and nan, which JSON lacks, become null there. A full disk does not stop the run.
        """
        self._rows.append({"step": step, "time": time.time(), **groups})
        if self._board:
            self._board.scalars(step, groups)

    def write_samples(self, step: int, samples: Sequence[dict[str, str]]) -> None:
        """Appends {"step": …, "source": …, …} of each sample to samples.jsonl, and to TensorBoard.

        Call it before the validation of the same step is written.
        """
        for number, sample in enumerate(samples, start=1):
            self._samples.append({"step": step, **sample})
            if self._board:
                lines = [f"{name:11}  {text}" for name, text in sample.items()]
                self._board.text(step, f"samples/{number}", lines)
        self._samples.save()

    def write_options(self, options: Mapping[str, Any]) -> None:
        """Writes the run's options, by dotted name, to TensorBoard."""
        if self._board:
            self._board.options(self._first_step, options, ("valid/loss", "valid/bleu"))

    def restart_clock(self) -> None:
        """See `Progress.restart_clock`."""
        self._progress.restart_clock()

    def flush(self) -> None:
        """Saves the rows that would be lost if the process were killed now."""
        self._rows.save()
        self._samples.save()
        if self._board:
            self._board.flush()

    def close(self) -> None:
        """Closes the bar and the files."""
        self._progress.close()
        self._rows.close()
        self._samples.close()
        if self._board:
            self._board.close()


def _board(workdir: Path, first_step: int) -> Board | None:
    try:
        return Board(workdir, first_step, log)
    except ImportError:
        extra = "pip install 'transformer_jax[tensorboard]', or --config.train.tensorboard=False"
        log(f"no TensorBoard files without tensorboardX: {extra}")
        return None
