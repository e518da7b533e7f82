"""TensorBoard's event files, written by tensorboardX's writer without its thread.

That thread dies when the disk is full; its queue then fills up, and the training waits forever.
Here a failed write is a warning, and the run continues without TensorBoard.
"""

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_jax import storage
from transformer_jax.errors import one_line

FOLDER = "tensorboard"
_SECONDS_BETWEEN_FLUSHES = 60


class Board:
    """The event file of one start of a run."""

    def __init__(self, workdir: Path, first_step: int, warn: Callable[[str], None]) -> None:
        """Starts a file in `workdir`/tensorboard.

        Args:
          workdir: the workdir of the run.
          first_step: the step restored; TensorBoard drops later steps of earlier files.
          warn: called at most once, with the reason why writing has stopped.

        Raises:
          ImportError: without tensorboardX.
        """
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._event, self._summary, self._warn = event_pb2.Event, summary, warn
        self._flushed_at = time.monotonic()
        self._writer: Any = None
        storage.make_folder(workdir / FOLDER)
        with self._ending_on_failure():
            self._writer = event_file_writer.EventsWriter(str(workdir / FOLDER / "events"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(first_step + 1, session_log=start)

    def scalars(self, step: int, groups: dict[str, dict[str, Any]]) -> None:
        """Writes each number of each group as "group/name"."""
        for group, metrics in groups.items():
            for name, value in metrics.items():
                number = math.nan if value is None else float(value)
                self._write(step, summary=self._summary.scalar(f"{group}/{name}", number))
        if time.monotonic() - self._flushed_at >= _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def options(self, step: int, options: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Writes the HParams tab.

        Args:
          step: the step at which the run starts.
          options: the run's options: numbers, strings and booleans by name.
          metrics: the tags of the scalars to compare runs by.
        """
        experiment, start, _ = self._summary.hparams(dict(options), dict.fromkeys(metrics))
        self._write(step, summary=experiment)
        self._write(step, summary=start)

    def text(self, step: int, tag: str, lines: Sequence[str]) -> None:
        """Writes lines that the Text tab shows unformatted."""
        # The tab renders Markdown, in which indented text is code.
        markdown = "\n".join("    " + re.sub(r"\s", " ", line) for line in lines)
        self._write(step, summary=self._summary.text(tag, markdown))

    def flush(self) -> None:
        """Writes buffered events to the disk."""
        with self._ending_on_failure():
            if self._writer:
                self._writer.flush()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Closes the file."""
        with self._ending_on_failure():
            if self._writer:
                self._writer.close()
        self._writer = None

    def _write(self, step: int, **content: Any) -> None:
        with self._ending_on_failure():
            if self._writer:
                self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))

    @contextlib.contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # a bucket's client has exceptions of its own
            # TensorBoard stops reading at an incomplete record, so nothing is written after one.
            self._writer = None
            reason = getattr(e, "strerror", None) or one_line(e, 200)
            self._warn(f"warning: TensorBoard's files end here: {reason or type(e).__name__}")
