"""Which options of a sweep mattered, by Optuna's importances."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from transformer_jax.report.runs import Run

EVALUATOR = "fANOVA (Hutter et al. 2014) on a random forest, by Optuna"
_POINTS_PER_OPTION = 5
_FEWEST = 10


@dataclasses.dataclass(frozen=True)
class Importances:
    """What the options explain of the differences in validation loss.

    Attributes:
      shares: by option, 0–1, the largest first; together 1. Empty without an answer.
      points: finished ones that it was computed from.
      warning: why it means little, or nothing; "" if there is nothing against it.
    """

    shares: dict[str, float]
    points: int
    warning: str


def importances(runs: Sequence[Run]) -> Importances:
    """Of the options that differ among the finished runs, the seed among them.

    A run that does not override an option counts with the value that its configuration has.
    """
    finished = [run for run in runs if run.state == "finished" and run.last("loss") is not None]
    options = _varied(finished)
    if not options:
        reason = "no option differs among the finished points, so that none can have mattered."
        return Importances({}, len(finished), reason)
    losses = [run.last("loss") for run in finished]
    if len(finished) < 3 or len(set(losses)) < 2:
        reason = f"{len(finished)} finished points with {len(set(losses))} different losses."
        return Importances({}, len(finished), f"Too little to say which option mattered: {reason}")
    shares = _fanova(finished, options)
    needed = max(_FEWEST, _POINTS_PER_OPTION * len(options))
    warning = ""
    if len(finished) < needed:
        warning = (
            f"{len(finished)} points are too few for {len(options)} options: take this as a hint "
            f"at most ({needed} or more would mean something)."
        )
    return Importances(shares, len(finished), warning)


def _varied(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The values of each option that the runs override and that is not the same in all."""
    names = dict.fromkeys(name for run in runs for name in run.overrides)
    values = {name: [_value(run, name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if len(set(map(repr, found))) > 1}


def _value(run: Run, name: str) -> Any:
    return run.overrides.get(name, run.options.get(name))


def _fanova(runs: Sequence[Run], options: dict[str, list[Any]]) -> dict[str, float]:
    distributions = {name: _distribution(values) for name, values in options.items()}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    for number, run in enumerate(runs):
        params = {name: values[number] for name, values in options.items()}
        study.add_trial(
            optuna.create_trial(params=params, distributions=distributions, value=run.last("loss"))
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return optuna.distributions.IntDistribution(min(values), max(values))
    if kinds <= {int, float}:
        return optuna.distributions.FloatDistribution(min(values), max(values))
    different = list({repr(value): value for value in values}.values())
    return optuna.distributions.CategoricalDistribution(different)
