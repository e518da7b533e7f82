"""Launches an experiment: `python launch.py` trains the quickstart; README.md has the rest."""

from pathlib import Path

from absl import flags, logging

from transformer_jax import command_line
from transformer_jax.config import WEIGHTS, UserError

_MODES = ["train", "evaluate", "translate", "describe"]
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; runs/<name> by default.")
_SPLIT = flags.DEFINE_string("split", "test", "evaluate: which split.")
_WEIGHTS = flags.DEFINE_enum(
    "weights", "average", WEIGHTS, "evaluate, translate: which checkpoints."
)
_INPUT = flags.DEFINE_string("input", None, "translate: a file of sentences instead of stdin.")
_OUTPUT = flags.DEFINE_string("output", None, "translate: a file instead of stdout.")
_N_BEST = flags.DEFINE_integer("n_best", 1, "translate: translations of each line.", lower_bound=1)
_PROFILE = flags.DEFINE_string("profile", None, "train: a folder for a jax profiler trace.")


def main(argv: list[str]) -> None:
    """Does what --mode says."""
    if argv[1:]:
        raise UserError(f"what is {argv[1]!r}? Options are written --name=value")
    # Imported here: a wrong flag should not wait for jax.
    from transformer_jax import experiment, trained

    logging.set_verbosity(logging.ERROR)
    config = flags.FLAGS.config
    workdir = Path(_WORKDIR.value or f"runs/{config.name}")
    weights = _WEIGHTS.value
    if _MODE.value == "train":
        experiment.train(config, workdir, profile=_PROFILE.value)
        trained.evaluate(config, workdir, split="test", weights=weights)
        trained.demo(config, workdir)
    elif _MODE.value == "evaluate":
        trained.evaluate(config, workdir, split=_SPLIT.value, weights=weights)
    elif _MODE.value == "translate":
        files = _INPUT.value, _OUTPUT.value
        trained.translate(config, workdir, *files, weights=weights, n_best=_N_BEST.value)
    else:
        print(experiment.describe(config))


if __name__ == "__main__":
    command_line.run(
        main, default_experiment=Path(__file__).parent / "experiments" / "quickstart.py"
    )
