"""What a mode is given: the configuration, its flags, and the command line they come from."""

import dataclasses
import logging
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from absl import logging as absl_logging

from transformer_jax import storage
from transformer_jax.config.experiment_files import checkout_folder, overrides_in
from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.parallel import allocator, compilation_cache, peers
from transformer_jax.storage import is_remote
from transformer_jax.workdir.inheritance import inherit

if TYPE_CHECKING:
    from transformer_jax.inference.trained import Model


@dataclasses.dataclass(frozen=True)
class Launch:
    """One start of the launcher.

    Attributes:
      mode: its name.
      config: the experiment, with the overrides of the command line.
      flags: the values of the mode's flags.
      arguments: the command line without the program's name, flag files expanded.
      experiment: the experiment file that --config names, "FILE.py:arg"; None = no --config.
      program: what a user types to start the launcher: "python launch.py", "transformer-jax".
    """

    mode: str
    config: Config
    flags: flags.FlagValues
    arguments: tuple[str, ...]
    experiment: Path | None
    program: str

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
        return self["workdir"] or storage.absolute(f"runs/{self.config.name}")

    @property
    def run_config(self) -> Config:
        """`config`, with the architecture and vocabulary that the run has by train.start_from."""
        given = [name for name, _ in overrides_in(self.arguments)]
        return inherit(self.config, self.workdir, given)

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

    @property
    def ensemble(self) -> list[Path]:
        """--ensemble, of a mode that has it."""
        return [storage.path(name) for name in self["ensemble"]] if "ensemble" in self.flags else []

    def load_model(self) -> "Model":
        """The trained model that --workdir, --weights, --ensemble and --reverse name."""
        from transformer_jax.inference.trained import load

        given = {"weights": self["weights"], "ensemble": self.ensemble}
        if "reverse" in self.flags and self["reverse"]:
            given["reverse"] = storage.path(self["reverse"])
        return load(self.workdir, config=self.run_config, **given)

    def child_arguments(self, keep: Collection[str]) -> list[str]:
        """The overrides of the experiment and the flags named in `keep`, for a child process."""
        found, kept = [], False
        for argument in self.arguments:
            if re.match("--?[a-zA-Z]", argument):  # and not the value of the flag before it
                name = flag_name(argument)
                kept = name in keep or name.startswith("config.")
            if kept:
                found.append(argument)
        return found

    def start(self, *, only_if_asked: bool = False) -> None:
        """Joins the processes of the run, before anything else asks jax for its devices.

        Args:
          only_if_asked: do so for --coordinator, but not because srun or mpirun started this one.
        """
        allocator.keep_freed_memory()
        compilation_cache.use()
        flags = [self[name] for name in ("coordinator", "num_processes", "process_id")]
        alone = only_if_asked and flags == [None, None, None]
        found = None if alone else peers.find(*flags)

        from transformer_jax.parallel import processes  # imports jax, which takes seconds

        processes.initialize(found, wait_seconds=self["wait_seconds"])


def flag_name(argument: str) -> str:
    """The name of the flag in "--name=value"; that of "--noconfig.seed" is "config.seed"."""
    name = argument.lstrip("-").partition("=")[0]
    return name.removeprefix("no") if name.startswith("noconfig.") else name


def command() -> list[str]:
    """The command that starts the launcher in another process, from any folder."""
    script = checkout_folder() / "launch.py"
    return [sys.executable, *([str(script)] if script.is_file() else ["-m", "transformer_jax"])]


def silence_libraries() -> None:
    """Silences orbax, which logs pages about a failure that `Checkpoints` reports in one line."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
