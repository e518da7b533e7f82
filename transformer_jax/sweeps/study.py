"""The points of a sweep as trials of an Optuna study, which several launchers may share.

A trial's user attribute "point" has its name and overrides. What changes a trial is done under its
lease, what adds trials under the study's lock (leases.py); so each point has one trial, and at any
moment one launcher that runs it. The value is the last validation loss, in nats per token without
label smoothing, and less is better.
"""

import dataclasses
import random
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from transformer_jax.config.files import differences, in_words
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError
from transformer_jax.sweeps.leases import Leases

_STATES = {
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
ENDED = ("finished", "pruned", "failed")
SearchSpace = Callable[[optuna.Trial], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Point:
    """A point, as the study knows it.

    Attributes:
      name: its workdir's, too.
      overrides: by dotted name.
      state: waiting, running, interrupted, finished, failed or pruned.
      value: the last validation loss, of a point that ended; None if it has none.
      seconds: for which it ran, in all.
      reason: why it failed.
      trial_id: Optuna's.
    """

    name: str
    overrides: dict[str, Any]
    state: str
    value: float | None
    seconds: float
    reason: str
    trial_id: int


class Study:
    """The study called `name` in the database at `url`, made if need be."""

    def __init__(self, url: str, name: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage, self._leases = _open(url, name)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction="minimize",
            pruner=optuna.pruners.MedianPruner(),
            load_if_exists=True,
        )

    def check(self, config: Config, points: str) -> None:
        """Writes down what the study is of, or compares with what was written.

        Args:
          config: the base.
          points: where the points come from: "sweep()" or "search_space()".

        Raises:
          UserError: if it was begun with another configuration, or its points come from elsewhere.
        """
        now = flatten(config)
        with self._leases.lock():
            begun = self._study.user_attrs.get("config")
            if begun is None:
                self._study.set_user_attr("points", points)
                self._study.set_user_attr("config", now)  # last: with it the study is begun
                return
            known = self._study.user_attrs.get("points")
        if known != points:
            raise UserError(
                f"the sweep {self._study.study_name} was begun with the points of a {known}, not "
                f"of a {points}: choose another --workdir"
            )
        differing = differences(begun, now, Change.ANY_TIME)
        if differing:
            raise UserError(
                f"the sweep {self._study.study_name} was begun with other options "
                f"({in_words(differing, 'then')}): choose another --workdir"
            )

    def enqueue(self, points: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Adds the points that the study lacks, and again those that failed.

        Raises:
          UserError: if it has a point of that name with other overrides.
        """
        with self._leases.lock():
            known = {point.name: point for point in self.points()}
            for name, overrides in points:
                old = known.get(name)
                if old and old.overrides != overrides:
                    raise UserError(
                        f"point {name} was begun with {old.overrides}, and is {overrides} now: "
                        "give it another name, or choose another --workdir"
                    )
                if old is None or old.state == "failed":
                    point = {"name": name, "overrides": overrides}
                    self._study.add_trial(
                        optuna.create_trial(state=TrialState.WAITING, user_attrs={"point": point})
                    )

    def points(self) -> list[Point]:
        """All points, in their order; of a point that was tried again the last trial."""
        living = self._leases.living()
        trials = {}
        for trial in self._study.get_trials(deepcopy=False):
            if "point" in trial.user_attrs:
                trials[trial.user_attrs["point"]["name"]] = trial
        return [_point(name, trial, living) for name, trial in trials.items()]

    def suggest(self, search_space: SearchSpace, number: int, *, seed: int) -> bool:
        """Adds a point that `search_space` and Optuna's TPE choose; False if there are `number`.

        A trial for which it raises optuna.TrialPruned is one of the number, and no point.

        Args:
          search_space: of the experiment file; what else it raises is passed on, and that trial
            has failed and does not count.
          number: of trials in all.
          seed: with one worker, a sweep's points depend on nothing else.
        """
        with self._leases.lock():
            trials = self._study.get_trials(deepcopy=False)
            # Under the lock, one without a point was left by a launcher that was killed here.
            bare = [trial for trial in trials if "point" not in trial.user_attrs]
            begun = [trial for trial in bare if trial.state == TrialState.RUNNING]
            failed = [trial for trial in bare if trial.state == TrialState.FAIL]
            if not begun and len(trials) - len(failed) >= number:
                return False
            with warnings.catch_warnings():  # constant_liar was experimental before Optuna 5
                warnings.simplefilter("ignore")
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=(seed * 100_003 + len(trials)) % 2**32, constant_liar=True
                )
            begun = [optuna.Trial(self._study, trial._trial_id) for trial in begun]
            trial = begun[0] if begun else self._study.ask()
            try:
                overrides = search_space(trial)
            except optuna.TrialPruned:
                self._study.tell(trial, state=TrialState.PRUNED)
                return True
            except Exception as e:
                self._study.tell(trial, state=TrialState.FAIL)
                if "dynamic value space" in str(e):  # other choices than an earlier trial had
                    raise UserError(
                        f"search_space() has changed ({e}): choose another --workdir"
                    ) from None
                raise
            point = {"name": f"trial_{trial.number:04}", "overrides": overrides}
            trial.set_user_attr("point", point)
            return True

    def claim(self, point: Point) -> bool:
        """Takes a point to run it; False if another launcher has it, or it has ended."""
        if not self._leases.take(point.name):
            return False
        # Only now it cannot change; it may have, since `point` was read.
        trial = self._storage.get_trial(point.trial_id)
        if trial.state.is_finished():
            self._leases.release(point.name)
            return False
        if trial.state == TrialState.WAITING:
            self._storage.set_trial_state_values(point.trial_id, TrialState.RUNNING)
        return True

    def beat(self, names: Sequence[str]) -> list[str]:
        """A sign of life for claimed points; returns those that another launcher has taken."""
        return self._leases.beat(names)

    def add_seconds(self, point: Point, seconds: float) -> None:
        """Notes that a claimed point ran for so long, besides what is noted already."""
        before = self._storage.get_trial(point.trial_id).user_attrs.get("seconds", 0.0)
        self._storage.set_trial_user_attr(point.trial_id, "seconds", before + seconds)

    def should_prune(self, point: Point, valid: Sequence[tuple[int, float]]) -> bool:
        """Reports a claimed point's validation losses; whether they are worse than the median."""
        known = self._storage.get_trial(point.trial_id).intermediate_values
        new = [(step, loss) for step, loss in valid if step not in known]
        for step, loss in new:
            self._storage.set_trial_intermediate_value(point.trial_id, step, loss)
        trial = self._storage.get_trial(point.trial_id)
        return bool(new) and self._study.pruner.prune(self._study, trial)

    def end(
        self, point: Point, state: str, *, value: float | None = None, reason: str = ""
    ) -> None:
        """Gives a claimed point back: as one of ENDED, or "interrupted", to be continued."""
        if reason:
            self._storage.set_trial_user_attr(point.trial_id, "reason", reason)
        if state in ENDED:
            number = self._storage.get_trial_number_from_id(point.trial_id)
            of_name = {name: trial_state for trial_state, name in _STATES.items()}
            self._study.tell(number, value, state=of_name[state])
        self._leases.release(point.name)


def _point(name: str, trial: FrozenTrial, living: set[str]) -> Point:
    state = _STATES.get(trial.state) or ("running" if name in living else "interrupted")
    attributes = trial.user_attrs
    return Point(
        name=name,
        overrides=attributes["point"]["overrides"],
        state=state,
        value=trial.value if state in ENDED else None,
        seconds=attributes.get("seconds", 0.0),
        reason=attributes.get("reason", ""),
        trial_id=trial._trial_id,
    )


def _open(url: str, name: str) -> tuple[optuna.storages.RDBStorage, Leases]:
    """The database, and the leases in it.

    Two launchers that start at once both make the tables, and one of them finds them made.
    """
    for _ in range(5):
        try:
            # SQLite's own wait for another process's writing is 5 seconds.
            wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
            storage = optuna.storages.RDBStorage(url, engine_kwargs=wait)
            return storage, Leases(storage.engine, name)
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError) as e:
            error = e
            if isinstance(e, ImportError | sqlalchemy.exc.ArgumentError):
                break
            time.sleep(random.uniform(0.1, 0.5))
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"--sweep_storage={shown(url)} cannot be opened: {reason}") from None


def shown(url: str) -> str:
    """`url` without its password."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def sqlite_url(path: Path) -> str:
    """Of a database in a file."""
    return f"sqlite:///{path.absolute()}"
