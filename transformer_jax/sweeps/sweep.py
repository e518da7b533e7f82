"""A sweep: the points of an experiment file, each trained by a child process in its own workdir.

Optuna's study has the state of every point, in <workdir>/study.db or where --sweep_storage says;
only launchers write to it. A sweep resumes where it was, whatever ended it: points that ended are
skipped, interrupted ones resume from their last checkpoint, and failed ones are tried again (but
not those of a search, which are Optuna's to choose). Each of several workers has a GPU or TPU chip
of its own, and several launchers with one storage share the points.

This imports no jax: the children do.
"""

import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from transformer_jax import storage
from transformer_jax.config import experiment_files
from transformer_jax.config.checks import check_config
from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError
from transformer_jax.sweeps import study
from transformer_jax.sweeps.runner import SUMMARY, Plan, Runner
from transformer_jax.sweeps.study import Study

DATABASE = "study.db"
_OWN = "name"  # what a point has besides overrides
_LONGEST_NAME = 200  # bytes, of 255 that a file system has
# What a point's folder cannot be called: it is in the sweep's, beside these.
_TAKEN = (DATABASE, SUMMARY, "report.html", "report.md", "report_figures")


def load_points(
    file: Path, config: Config, arguments: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """The name and the overrides of each point of `file`'s sweep(), which are valid together.

    Args:
      file: the experiment file, "file.py:arg".
      config: the base, with the overrides of the launch line.
      arguments: of the launch line, whose overrides win over a point's.

    Raises:
      UserError: if there is no sweep(), or a point that cannot be.
    """
    found, runs = [], {}
    folders = set(_TAKEN)
    for point in experiment_files.load_sweep(file):
        name, origin = str(point[_OWN]), f"point {point[_OWN]} of sweep() of {file}"
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(f"{origin}: its name has to be a folder's: letters, digits, _ . + -")
        if len(name.encode()) > _LONGEST_NAME or name.lower() in folders:
            raise UserError(
                f"{origin}: its name is longer than {_LONGEST_NAME} bytes, a file's of the sweep, "
                "or another point's but for capitals"
            )
        folders.add(name.lower())
        overrides = _effective(point, config, arguments)
        try:
            whole = configured(config, name, overrides, origin=origin)
            _validate(whole)
            _refuse_same(runs, name, whole, given=overrides.keys() & _given(arguments))
        except UserError as e:
            raise UserError(f"{e}" if str(e).startswith(origin) else f"{origin}: {e}") from None
        found.append((name, overrides))
    if not found:
        raise UserError(f"sweep() of {file} has no points")
    return found


def configured(config: Config, name: str, overrides: dict[str, Any], *, origin: str) -> Config:
    """A point's whole configuration; `origin` is what an error names as the place to mend."""
    changed = copy.deepcopy(config)
    experiment_files.apply_overrides(changed, {_OWN: name, **overrides}, origin=origin)
    return changed


def run(
    config: Config,
    file: Path,
    workdir: Path,
    *,
    workers: int,
    num_trials: int | None,
    url: str | None,
    arguments: Sequence[str],
    launcher: Sequence[str],
) -> int:
    """Trains every point, or goes on with it; returns the exit status.

    Args:
      config: the base, with the overrides of the launch line.
      file: the experiment file, "file.py:arg".
      workdir: of the sweep, whose name is the study's; a point's is the folder in it of its name.
      workers: children at a time.
      num_trials: points of the file's search_space(trial); None = those of its sweep().
      url: of the study's database; None = in `workdir`.
      arguments: of the launch line, for every child.
      launcher: the command that runs launch.py.

    Returns:
      0; 1 if a point failed; 75 after SIGTERM or Ctrl-C: the same line goes on.

    Raises:
      UserError: if the file has no such points, or the study cannot be used.
    """
    _validate(config)
    points = load_points(file, config, arguments) if num_trials is None else []
    search_space = experiment_files.load_search_space(file) if num_trials is not None else None
    storage.make_folder(workdir)
    url = url or study.sqlite_url(workdir / DATABASE)
    try:
        opened = Study(url, workdir.absolute().name)
        opened.check(config, "search_space()" if search_space else "sweep()")
        opened.enqueue(points)
        suggest = None
        if search_space:
            chosen = _checked(search_space, file, config, arguments)
            suggest = lambda: opened.suggest(chosen, num_trials, seed=config.seed)  # noqa: E731
        plan = Plan(
            workdir,
            workers,
            command=[*launcher, "--mode=train", f"--config={file}"],
            arguments=arguments,
            steps=config.train.steps,
            about={"config": str(file), "storage": study.shown(url)},
            names=None if search_space else {name for name, _ in points},
            suggest=suggest,
        )
        return Runner(opened, plan).run()
    except (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError) as e:
        reason = " ".join(str(e.__cause__ or e).split())[:300]
        raise UserError(f"the study in {study.shown(url)} cannot be used: {reason}") from None


def _validate(config: Config) -> None:
    check_config(config)
    if not config.train.evaluate_every:
        raise UserError("a sweep compares validation losses: train.evaluate_every must not be 0")


def _checked(
    search_space: study.SearchSpace, file: Path, config: Config, arguments: Sequence[str]
) -> Callable[[optuna.Trial], dict[str, Any]]:
    """`search_space`, whose overrides are options of their types."""

    def checked(trial: optuna.Trial) -> dict[str, Any]:
        point, origin = search_space(trial), f"search_space() of {file}"
        if not isinstance(point, dict):
            raise UserError(f"{origin} returned a {type(point).__name__}, not a dict")
        overrides = _effective(point, config, arguments)
        configured(config, config.name, overrides, origin=origin)
        return overrides

    return checked


def _refuse_same(runs: dict[str, str], name: str, whole: Config, *, given: set[str]) -> None:
    """Refuses a point that is the very run of an earlier one; `runs` has them, and gets this one.

    `given` are the options of the point for which the launch line has another value.
    """
    options = repr({option: v for option, v in flatten(whole).items() if option != _OWN})
    same = runs.setdefault(options, name)
    if same != name:
        why = f": the launch line sets {', '.join(sorted(given))} for both" if given else ""
        raise UserError(f"it is the same run as point {same}{why}")


def _given(arguments: Sequence[str]) -> set[str]:
    """The options that the launch line sets."""
    return {option for option, _ in experiment_files.overrides_in(arguments)}


def _effective(point: dict[str, Any], config: Config, arguments: Sequence[str]) -> dict[str, Any]:
    """A point's overrides, with the launch line's values where that has them, too."""
    given, options = _given(arguments), flatten(config)
    return {
        option: options[option] if option in given and option in options else value
        for option, value in point.items()
        if option != _OWN
    }
