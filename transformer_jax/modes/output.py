"""Where a mode writes its result: a file as a whole, or standard output."""

import sys

from transformer_jax import storage
from transformer_jax.data.compression import compressor
from transformer_jax.errors import UserError
from transformer_jax.storage import is_remote, write_whole


def check_writable(output_file: str | None) -> None:
    """Raises UserError now, and not after hours, if a file has no folder or no compressor."""
    if not output_file:
        return
    compressor(output_file)
    path = storage.path(output_file)
    if not is_remote(path) and not path.parent.is_dir():
        raise UserError(f"cannot write {output_file}: there is no such folder")


def write(output_file: str | None, text: str) -> None:
    """Writes `text` to a file as a whole or not at all, or to standard output; from one process.

    A file whose name ends in .gz, .bz2, .xz or .zst is compressed.
    """
    from transformer_jax.parallel import processes

    if not processes.is_writer():
        return
    if output_file is None:
        sys.stdout.write(text)
    else:
        write_whole(storage.path(output_file), compressor(output_file)(text.encode()))
