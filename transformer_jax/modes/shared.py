"""Flags that several modes share."""

from absl import flags
from absl.flags import FlagValues

from transformer_jax.config.options import WEIGHTS


def define_common(values: FlagValues) -> None:
    """Defines the flags of every mode."""
    flags.DEFINE_string("mode", "train", "Command to run.", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run (default: runs/NAME of the experiment).",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "sweep_index",
        None,
        "Point of the experiment's sweep() to use, from 0.",
        flag_values=values,
    )


def define_processes(values: FlagValues) -> None:
    """Defines the flags by which several processes join."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "Several processes: HOST:PORT of the first one; found by itself on a TPU or under Slurm.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_processes", None, "Several processes: their number.", flag_values=values
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Several processes: the number of this one, from 0.",
        flag_values=values,
    )


def define_weights(values: FlagValues) -> None:
    """Defines which checkpoints are used."""
    flags.DEFINE_enum(
        "weights",
        "average",
        WEIGHTS,
        "Checkpoints to use: the mean of the last ones, the latest, or the best by validation "
        "BLEU.",
        flag_values=values,
    )


def define_ensemble(values: FlagValues) -> None:
    """Defines further models."""
    flags.DEFINE_list(
        "ensemble",
        [],
        "Further workdirs, whose models' probabilities are averaged with the first one's.",
        flag_values=values,
    )


def define_split(values: FlagValues) -> None:
    """Defines which split of the text is used."""
    flags.DEFINE_string("split", "test", "Split of the text to use.", flag_values=values)


def define_output(values: FlagValues, text: str) -> None:
    """Defines where the result is written."""
    flags.DEFINE_string("output", None, text, flag_values=values)


def define_accelerator(values: FlagValues, text: str) -> None:
    """Defines an accelerator by its product name."""
    flags.DEFINE_string("accelerator", None, text, flag_values=values)


def define_price(values: FlagValues) -> None:
    """Defines what an hour of a chip costs."""
    flags.DEFINE_float(
        "chip_hour_price",
        None,
        "Price of one chip for an hour, to add the cost.",
        lower_bound=0,
        flag_values=values,
    )
