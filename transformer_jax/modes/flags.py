"""The flags of a mode, which absl parses, and those that several modes share."""

from collections.abc import Sequence

from absl import flags

from transformer_jax import storage
from transformer_jax.config.options import WEIGHTS
from transformer_jax.errors import UserError


class Flags:
    """Defines the flags of one mode.

    Attributes:
      values: what absl parses.
    """

    def __init__(self) -> None:
        self.values = flags.FlagValues()
        self._own = {"flag_values": self.values}
        self.text("mode", "Command to run.", "train")
        self.path("workdir", "Folder of the run (default: runs/NAME of the experiment).")
        self.whole("sweep_index", "Point of the experiment's sweep() to use, from 0.")

    def text(self, name: str, help: str, default: str | None = None) -> None:
        """Defines a flag whose value is text."""
        flags.DEFINE_string(name, default, help, **self._own)

    def path(self, name: str, help: str) -> None:
        """Defines a flag whose value is a path; it is made absolute."""
        flags.DEFINE(_Path(), name, None, help, **self._own)

    def paths(self, name: str, help: str) -> None:
        """Defines a flag whose value is a list of paths, with commas between them."""
        flags.DEFINE(_Paths(), name, [], help, **self._own)

    def whole(
        self, name: str, help: str, default: int | None = None, at_least: int | None = None
    ) -> None:
        """Defines a flag whose value is a whole number."""
        flags.DEFINE_integer(name, default, help, lower_bound=at_least, **self._own)

    def choice(
        self, name: str, help: str, choices: Sequence[str], default: str | None = None
    ) -> None:
        """Defines a flag whose value is one of `choices`."""
        flags.DEFINE_enum(name, default, list(choices), help, **self._own)

    def switch(self, name: str, help: str) -> None:
        """Defines a flag that is off by default: --name, --noname."""
        flags.DEFINE_bool(name, False, help, **self._own)

    def weights(self) -> None:
        """Defines which checkpoints to load."""
        text = "Checkpoints to use: the mean of the last ones, the latest, or the best by BLEU."
        self.choice("weights", text, WEIGHTS, "average")

    def ensemble(self) -> None:
        """Defines further models to load."""
        text = "Further workdirs, whose models' probabilities are averaged with the first one's."
        self.paths("ensemble", text)

    def reverse(self) -> None:
        """Defines the model that reranks."""
        text = "Workdir of the other direction, which --config.decode.choose=reverse asks."
        self.path("reverse", text)

    def split(self) -> None:
        """Defines which part of the text to use."""
        self.text("split", "Split of the text to use.", "test")

    def price(self) -> None:
        """Defines what an hour of a chip costs."""
        text = "Price of one chip-hour, for an estimate of the cost."
        flags.DEFINE_float("chip_hour_price", None, text, lower_bound=0, **self._own)

    def processes(self) -> None:
        """Defines how the processes of a run on several machines find each other."""
        where = "address HOST:PORT of the first one"
        found = "not needed on a TPU, nor, except to translate, under srun or mpirun."
        self.text("coordinator", f"Several processes: {where}; {found}")
        self.whole("num_processes", "Several processes: their number.")
        self.whole("process_id", "Several processes: the number of this one, from 0.")
        self.whole("wait_seconds", "Several processes: time to wait for the others.", 60, 1)


class _Path(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        try:
            return storage.absolute(argument)
        except UserError as e:
            raise ValueError(str(e)) from None  # absl adds the flag's name


class _Paths(flags.ArgumentParser):
    def parse(self, argument: str | list[str]) -> list[str]:
        if isinstance(argument, list):  # the default
            return argument
        try:
            return [storage.absolute(name) for name in storage.split_paths(argument) if name]
        except UserError as e:
            raise ValueError(str(e)) from None
