"""Where a mode writes its result: a file, opened before the work begins, or standard output."""

import contextlib
import functools
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from transformer_jax import storage
from transformer_jax.console import log
from transformer_jax.data.compression import compressor
from transformer_jax.errors import Preempted, UserError
from transformer_jax.storage import is_remote, write_whole

_STREAM = 2**20  # bytes that are compressed together
_SAVE_SECONDS = 10.0
_PART = ".part"


class Output(contextlib.AbstractContextManager):
    """Standard output, or a file that is there as a whole or not at all; from one process.

    A file of this machine is NAME.part until the block ends without an exception; one in a bucket
    is written then. A name that ends in .gz, .bz2, .xz or .zst has the content compressed.

    Attributes:
      part: the unfinished file of this machine; None if there is none.
    """

    def __init__(self, output_file: str | None, *, keep_part: bool = False) -> None:
        """Opens it.

        Args:
          output_file: its name; None = standard output.
          keep_part: leave what an earlier run wrote into `part`, and leave it after an exception.

        Raises:
          UserError: if it cannot be written.
        """
        from transformer_jax.parallel import processes

        self._name = output_file or "standard output"
        self._compress = compressor(self._name)
        self._keep_part, self._pending = keep_part, b""
        self.part: Path | None = None
        self._bucket: Path | None = None
        self._file: BinaryIO = io.BytesIO()  # what other processes write is dropped
        if processes.is_writer():
            with self._writing():
                self._open(output_file)

    def _open(self, output_file: str | None) -> None:
        if output_file is None:
            self._file = sys.stdout.buffer
            return
        path = storage.path(output_file)
        if is_remote(path):
            self._bucket = path
            _part(path).write_bytes(b"")  # fails now, and not after hours
        elif path.exists() and not path.is_file():
            self._file = path.open("wb")  # a pipe, or /dev/null; a folder fails
        else:
            self.part = _part(path.resolve())  # a link to a file stays one
            if not self._keep_part or self.part.is_symlink():
                self.part.unlink(missing_ok=True)
            self._file = self.part.open("ab")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as e:
            lost = isinstance(e, FileNotFoundError) and not Path(self._name).parent.is_dir()
            reason = "there is no such folder" if lost else e.strerror or e
            raise UserError(f"cannot write {self._name}: {reason}") from None

    def write(self, text: str) -> None:
        """Writes text: at once, or, if it is compressed, when there is enough of it."""
        self._pending += text.encode()
        if self._compress is bytes or len(self._pending) >= _STREAM:
            self.flush()

    def flush(self) -> None:
        """Writes what `write` keeps back."""
        with self._writing():
            if self._pending:
                self._file.write(self._compress(self._pending))
            self._pending = b""
            self._file.flush()

    def size(self) -> int:
        """The bytes of `part`."""
        return os.fstat(self._file.fileno()).st_size

    def cut(self, size: int) -> None:
        """Keeps the first bytes of `part`, and continues after them."""
        with self._writing():
            self._file.truncate(size)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.flush()
        with self._writing() if kind is None else contextlib.suppress(OSError):
            if self._bucket:
                if kind is None:
                    write_whole(self._bucket, self._file.getvalue())
                _part(self._bucket).unlink()
            elif self.part:
                self._end_part(complete=kind is None)

    def _end_part(self, *, complete: bool) -> None:
        empty = not self.size()
        if complete:
            os.fsync(self._file.fileno())
        self._file.close()
        if complete:
            self.part.replace(self.part.with_name(self.part.name.removesuffix(_PART)))
        elif empty or not self._keep_part:
            self.part.unlink()


class InOrder(contextlib.AbstractContextManager):
    """An output of numbered texts, written in their order in whatever order they come.

    What is done outlives an interruption. NAME.part.json, beside NAME.part, remembers how far that
    is, the texts that wait for those before them, and what the job is: the same job resumes there.
    Several processes, buckets and standard output begin again.
    """

    def __init__(self, output_file: str | None) -> None:
        """Opens the output; see `Output`."""
        from transformer_jax.parallel import processes

        self._output = Output(output_file, keep_part=not processes.joined())
        part = self._output.part
        self._state = (
            part.with_name(f"{part.name}.json") if part and not processes.joined() else None
        )
        self._job: Callable[[], str] | None = None
        self._total = self._next = 0
        self._waiting: dict[int, str] = {}
        self._saved = time.monotonic()

    def begin(self, total: int, job: Callable[[], str]) -> set[int]:
        """Begins a job, or resumes it.

        Args:
          total: the number of texts.
          job: what identifies it; called only where that is needed.

        Returns:
          The numbers, from 0, of the texts that need not come again.
        """
        self._total, self._job = total, functools.cache(job)
        if not self._state:
            return set()
        kept = self._restored() if self._state.exists() else 0
        self._output.cut(kept)
        done = {*range(self._next), *self._waiting}
        if done:
            log(f"resuming after {len(done):,} of {total:,} lines in {self._output.part}")
        else:
            self._state.unlink(missing_ok=True)
        return done

    def _restored(self) -> int:
        """Takes up what the last run saved; returns the bytes to keep of its part."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            waiting = {int(number): text for number, text in state["waiting"].items()}
            lines, size = int(state["lines"]), int(state["bytes"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            state = {}
        if state.get("job") != self._job() or size > self._output.size():
            log(f"{self._output.part} is of another input, model or option: starting over")
            return 0
        self._next, self._waiting = lines, waiting
        return size

    def add(self, texts: Mapping[int, str]) -> None:
        """Takes texts by their numbers, and writes those whose turn it is."""
        self._waiting.update(texts)
        ready = []
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next += 1
        if ready:
            self._output.write("".join(ready))
        if self._state and time.monotonic() - self._saved > _SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        self._output.flush()
        state = {"job": self._job(), "lines": self._next, "bytes": self._output.size()}
        state["waiting"] = self._waiting
        write_whole(self._state, json.dumps(state, ensure_ascii=False))
        self._saved = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        done = self._next + len(self._waiting)
        keep = bool(kind and self._state and done)
        try:
            if keep:
                self._save()
        finally:
            self._output.__exit__(kind, *details)
        if not kind and self._state:
            self._state.unlink(missing_ok=True)
        if keep and kind is KeyboardInterrupt:
            part = self._output.part
            raise Preempted(f"{done:,} of {self._total:,} lines are in {part}") from None


def _part(path: Path) -> Path:
    return path.with_name(path.name + _PART)
