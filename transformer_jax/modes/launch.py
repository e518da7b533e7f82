"""What a mode is given: the configuration, its flags, and the command line they come from."""

import dataclasses
import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import flags
from absl import logging as absl_logging

from transformer_jax import storage
from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.storage import is_remote


@dataclasses.dataclass(frozen=True)
class Launch:
    """One start of the launcher.

    Attributes:
      mode: its name.
      config: the experiment, with the overrides of the command line.
      flags: the values of the mode's flags.
      arguments: the command line without the program's name, flag files expanded.
      experiment: the experiment file that --config names, "FILE.py:arg"; None = no --config.
      inherited: names of the flags that a child in mode train knows, too.
    """

    mode: str
    config: Config
    flags: flags.FlagValues
    arguments: tuple[str, ...]
    experiment: Path | None
    inherited: frozenset[str]

    def __getitem__(self, name: str) -> Any:
        """The value of a flag."""
        return self.flags[name].value

    @property
    def workdir(self) -> Path:
        """--workdir, or runs/NAME."""
        return storage.path(self.workdir_name)

    @property
    def workdir_name(self) -> str:
        """`workdir` as it is written, which may be in a bucket that cannot be reached from here."""
        return self["workdir"] or f"runs/{self.config.name}"

    def path(self, name: str) -> Path:
        """The path in a flag that this mode cannot do without."""
        if not self[name]:
            raise UserError(f"--mode={self.mode} needs --{name}=…")
        return storage.path(self[name])

    def local_path(self, name: str) -> Path:
        """As `path`, for programs that know no buckets."""
        path = self.path(name)
        if is_remote(path):
            raise UserError(
                f"--mode={self.mode} needs a folder of this machine, not {path}: copy it"
            )
        return path

    def child_arguments(self, without: Collection[str] = ()) -> list[str]:
        """The command line for a child in mode train: the flags that it knows, but `without`."""
        own = {"mode", "workdir", *without}
        return [
            argument
            for argument in self.arguments
            if (name := flag_name(argument)).startswith("config.")
            or (name in self.inherited and name not in own)
        ]

    def start(self) -> None:
        """Joins the processes of the run, before anything else asks jax for its devices."""
        from transformer_jax.parallel import processes

        silence_libraries()
        processes.initialize(self["coordinator"], self["num_processes"], self["process_id"])


def flag_name(argument: str) -> str:
    """The name of the flag in "--name=value" or "--noname"."""
    return argument.lstrip("-").partition("=")[0].removeprefix("no")


def silence_libraries() -> None:
    """Checkpoints report a failure in one line, of which orbax would log pages."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
