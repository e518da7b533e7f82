"""The section of a sweep's report on which options mattered, by Optuna's importances."""

import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from transformer_jax.report import figures
from transformer_jax.report.document import Block, Figure, Heading, Paragraph, Table
from transformer_jax.report.runs import CRITERIA, Run, criterion

_POINTS_PER_OPTION = 5
_FEWEST = 10


def section(runs: Sequence[Run]) -> list[Block]:
    """The importance of each option, as a figure and a table."""
    shares, warning = importances(runs)
    label = CRITERIA[criterion(runs)]
    blocks: list[Block] = [Heading("Which options mattered")]
    if warning:
        blocks.append(Paragraph(warning, True))
    if not shares:
        return blocks
    about = (
        f"The share of the differences in {label} among the finished points that each "
        "option explains: fANOVA (Hutter et al. 2014) on a random forest, by Optuna. Options that "
        "were changed together cannot be distinguished, and what the seed explains is chance."
    )
    rows = [[name, f"{100 * share:.1f} %"] for name, share in shares.items()]
    return [
        *blocks,
        Paragraph(about),
        Figure("importances", _bars(shares, label), "Importance of each option"),
        Table(["option", "importance"], rows, numbers=[1]),
    ]


def importances(runs: Sequence[Run]) -> tuple[dict[str, float], str]:
    """The importance of each option that differs among the finished runs, the seed included.

    A run that does not override an option counts with the value in its configuration.

    Returns:
      The importances by option, 0–1, the largest first, with sum 1, or {} if there are none; and a
      warning if they mean little or nothing, or "".
    """
    metric = criterion(runs)
    finished = [run for run in runs if run.state == "finished" and run.score(metric) is not None]
    values = [run.score(metric) for run in finished]
    options = _varied(finished)
    if not options:
        return {}, "No option differs among the finished points."
    n, different = len(finished), len(set(values))
    if n < 3 or different < 2:
        return {}, (
            f"Importances need three finished points or more, of different {CRITERIA[metric]}: "
            f"there are {n} of {different} different values."
        )
    needed = max(_FEWEST, _POINTS_PER_OPTION * len(options))
    warning = (
        f"{n} points are too few for {len(options)} options: take this as a hint at most, and "
        f"train {needed} or more to rely on it."
    )
    return _fanova(options, values), warning if n < needed else ""


def _bars(shares: dict[str, float], label: str) -> bytes:
    axes = figures.axes(0.9 + 0.34 * len(shares))
    axes.barh(range(len(shares)), shares.values(), color=figures.COLORS[0], height=0.62)
    axes.set_yticks(range(len(shares)), map(figures.short, shares))
    axes.invert_yaxis()
    axes.set_xlabel(f"share of the differences in {label}")
    return figures.png(axes)


def _varied(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The values of each option that some run overrides and that is not the same in all."""
    names = dict.fromkeys(name for run in runs for name in run.overrides)
    values = {name: [run.overrides.get(name, run.options.get(name)) for run in runs]
              for name in names}  # fmt: skip
    return {name: found for name, found in values.items() if len(set(map(repr, found))) > 1}


def _fanova(options: dict[str, list[Any]], results: Sequence[float]) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions = {name: _distribution(values) for name, values in options.items()}
    study = optuna.create_study(direction="minimize")
    for *values, result in zip(*options.values(), results, strict=True):
        params = dict(zip(options, values, strict=True))
        trial = optuna.create_trial(params=params, distributions=distributions, value=result)
        study.add_trial(trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is experimental
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return optuna.distributions.IntDistribution(min(values), max(values))
    if kinds <= {int, float}:
        return optuna.distributions.FloatDistribution(min(values), max(values))
    return optuna.distributions.CategoricalDistribution(list({repr(v): v for v in values}.values()))
