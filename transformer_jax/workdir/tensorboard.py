"""TensorBoard's files, written by tensorboardX as its own writer does, but without its thread.

That thread dies of a full disk, after which its queue fills and the training waits for it for ever.
Here a failure is seen where it happens: the run is told once, and goes on without TensorBoard.
"""

import contextlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_jax import storage

FOLDER = "tensorboard"
_SECONDS_BETWEEN_FLUSHES = 60


class Board:
    """The event file of one start of a run."""

    def __init__(self, workdir: Path, first_step: int, warn: Callable[[str], None]) -> None:
        """Starts a file in `workdir`/tensorboard.

        Args:
          workdir: of the run.
          first_step: the step restored; TensorBoard forgets what earlier files say of later ones.
          warn: is told, once, why nothing more is written.

        Raises:
          ImportError: without tensorboardX.
        """
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._event, self._summary, self._warn = event_pb2.Event, summary, warn
        self._flushed_at = time.monotonic()
        self._writer: Any = None
        folder = workdir / FOLDER
        storage.make_folder(folder)
        with self._told():
            self._writer = event_file_writer.EventsWriter(str(folder / "events"))
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(first_step + 1, session_log=start)

    def scalars(self, step: int, groups: dict[str, dict[str, Any]]) -> None:
        """Writes each number of each group as "group/name"."""
        with self._told():
            for group, metrics in groups.items():
                for name, value in metrics.items():
                    number = math.nan if value is None else float(value)
                    self._write(step, summary=self._summary.scalar(f"{group}/{name}", number))
        if time.monotonic() - self._flushed_at >= _SECONDS_BETWEEN_FLUSHES:
            self.flush()

    def options(self, step: int, options: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Writes what the HParams tab shows: the run's options, and by which scalars it is judged.

        Args:
          step: at which the run starts.
          options: numbers, text, and true or false, by name.
          metrics: tags of `scalars`.
        """
        with self._told():
            experiment, start, _ = self._summary.hparams(dict(options), dict.fromkeys(metrics))
            self._write(step, summary=experiment)
            self._write(step, summary=start)

    def text(self, step: int, tag: str, lines: Sequence[str]) -> None:
        """Writes lines of text, which are shown as they are."""
        with self._told():
            # The tab takes it for Markdown, in which indented text is code.
            markdown = "\n".join("    " + re.sub(r"\s", " ", line) for line in lines)
            self._write(step, summary=self._summary.text(tag, markdown))

    def flush(self) -> None:
        """Puts what was written on the disk."""
        with self._told():
            if self._writer:
                self._writer.flush()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Ends the file."""
        with self._told():
            if self._writer:
                self._writer.close()
        self._writer = None

    def _write(self, step: int, **content: Any) -> None:
        if self._writer:
            self._writer.write_event(self._event(wall_time=time.time(), step=step, **content))

    @contextlib.contextmanager
    def _told(self) -> Any:
        try:
            yield
        except Exception as e:  # a bucket's client raises its own kinds
            # After half a record TensorBoard reads no further: there is no point in going on.
            self._writer = None
            reason = getattr(e, "strerror", None) or " ".join(str(e).split())[:200]
            self._warn(f"warning: TensorBoard's files end here: {reason or type(e).__name__}")
