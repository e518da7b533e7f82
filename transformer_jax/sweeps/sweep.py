"""A sweep: the points of an experiment file, each trained by a child process in its own workdir.

Optuna's study holds the state of every point, in <workdir>/study.db or in --sweep_storage; only
launchers write to it. A sweep resumes whatever ended it: finished points are skipped, interrupted
points resume from their last checkpoint, and failed points are retried (but not those of a search,
which Optuna chooses). Each of several workers has a GPU or TPU chip of its own, and several
launchers with one storage share the points.

This module imports no jax: the children do.
"""

import copy
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from transformer_jax import storage
from transformer_jax.config import experiment_files
from transformer_jax.config.checks import check_config
from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError, one_line
from transformer_jax.sweeps import study
from transformer_jax.sweeps.runner import Runner
from transformer_jax.sweeps.study import Study
from transformer_jax.sweeps.summary import SUMMARY, Point

DATABASE = "study.db"
_OWN = "name"  # the only key of a point that is no override
_LONGEST_NAME = 200  # bytes; file systems allow 255
# A point's folder cannot have these names: they are beside it in the sweep's folder.
_TAKEN = (DATABASE, SUMMARY, "report.html", "report.md", "report_figures")


def load_points(
    file: Path, config: Config, arguments: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    """The name and the overrides of each point of `file`'s sweep().

    Args:
      file: the experiment file, "file.py:arg".
      config: the base experiment, with the overrides of the command line.
      arguments: of the command line; its overrides win over a point's.

    Raises:
      UserError: if there is no sweep(), or a point is not valid.
    """
    found, same, given = [], {}, _given(arguments)
    folders = dict.fromkeys(_TAKEN, "a file of the sweep")
    for point in experiment_files.load_sweep(file):
        name, origin = str(point[_OWN]), f"point {point[_OWN]} of sweep() of {file}"
        if not re.fullmatch(r"\w[\w.+-]*", name) or len(name.encode()) > _LONGEST_NAME:
            raise UserError(
                f"{origin}: its name names a folder: use letters, digits, and _ . + -, "
                f"at most {_LONGEST_NAME}"
            )
        if name.lower() in folders:
            raise UserError(f"{origin}: its folder would be that of {folders[name.lower()]}")
        folders[name.lower()] = f"point {name}"
        overrides = _effective(point, config, given)
        try:
            whole = configured(config, name, overrides, origin=origin)
            _check(whole)
        except UserError as e:
            raise UserError(f"{e}" if str(e).startswith(origin) else f"{origin}: {e}") from None
        options = repr({o: value for o, value in flatten(whole).items() if o != _OWN})
        if same.setdefault(options, name) != name:
            raise UserError(
                f"{origin}: it is the same run as point {same[options]}"
                + ": the command line overrides what differs" * bool(overrides.keys() & given)
            )
        found.append((name, overrides))
    if not found:
        raise UserError(f"sweep() of {file} has no points")
    return found


def configured(config: Config, name: str, overrides: dict[str, Any], *, origin: str) -> Config:
    """The whole configuration of a point; errors name `origin` as the place to correct."""
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
    """Trains every point, or resumes; returns the exit status.

    Args:
      config: the base experiment, with the overrides of the command line.
      file: the experiment file, "file.py:arg".
      workdir: of the sweep; its name is the study's. Each point has a folder of its name in it.
      workers: the number of points trained at a time.
      num_trials: the number of points of the file's search_space(trial); None = train sweep()'s.
      url: of the study's database; None = a file in `workdir`.
      arguments: of the command line, for every child.
      launcher: the command that starts the launcher.

    Returns:
      0; 1 if a point failed; 75 after SIGTERM or Ctrl-C: the same command resumes.

    Raises:
      UserError: if the file has no such points, or the study cannot be used.
    """
    _check(config)
    points = load_points(file, config, arguments) if num_trials is None else []
    search_space = experiment_files.load_search_space(file) if num_trials is not None else None
    storage.make_folder(workdir)
    url = study.resolved(url or f"sqlite:///{workdir / DATABASE}")
    try:
        opened = Study(url, workdir.absolute().name)
        opened.check(config, "search_space()" if search_space else "sweep()")
        opened.enqueue(points)
        suggest = None
        if search_space:
            checked = _checked(search_space, file, config, arguments)
            suggest = lambda: opened.suggest(checked, num_trials, seed=config.seed)  # noqa: E731
        runner = Runner(
            opened,
            workdir,
            workers,
            command=partial(_command, file, workdir, arguments, launcher),
            steps=lambda point: point.overrides.get("train.steps", config.train.steps),
            about={"config": str(file), "storage": study.shown(url)},
            names=None if search_space else {name for name, _ in points},
            suggest=suggest,
        )
        return runner.run()
    except (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError) as e:
        reason = one_line(e.__cause__ or e, 300)
        raise UserError(f"the study in {study.shown(url)} cannot be used: {reason}") from None


def _command(
    file: Path, workdir: Path, arguments: Sequence[str], launcher: Sequence[str], point: Point
) -> list[str]:
    """The command that trains a point; the arguments come last, to win over its overrides."""
    own = [f"--workdir={workdir / point.name}", f"--config.name={point.name}"]
    overrides = [f"--config.{name}={value}" for name, value in point.overrides.items()]
    return [*launcher, "--mode=train", f"--config={file}", *own, *overrides, *arguments]


def _given(arguments: Sequence[str]) -> set[str]:
    return {option for option, _ in experiment_files.overrides_in(arguments)}


def _check(config: Config) -> None:
    check_config(config)
    if not config.train.evaluate_every:
        raise UserError("a sweep compares validation losses: train.evaluate_every=0 computes none")


def _checked(
    search_space: study.SearchSpace, file: Path, config: Config, arguments: Sequence[str]
) -> Callable[[optuna.Trial], dict[str, Any]]:
    """`search_space`, with a check that it returns options with values of their types."""
    given = _given(arguments)

    def checked(trial: optuna.Trial) -> dict[str, Any]:
        point, origin = search_space(trial), f"search_space() of {file}"
        if not isinstance(point, dict):
            raise UserError(f"{origin} returned a {type(point).__name__}, not a dict")
        overrides = _effective(point, config, given)
        configured(config, config.name, overrides, origin=origin)
        return overrides

    return checked


def _effective(point: dict[str, Any], config: Config, given: set[str]) -> dict[str, Any]:
    """A point's overrides; those `given` on the command line have their value from `config`."""
    options = flatten(config)
    return {o: options[o] if o in given else v for o, v in point.items() if o != _OWN}
