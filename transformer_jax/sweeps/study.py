"""The points of a sweep as trials of an Optuna study, which several launchers may share.

A trial's user attribute "point" holds the name and the overrides of its point. A launcher changes a
trial only under the trial's lease, and adds trials only under the study's lock (leases.py): so each
point has one trial, and one launcher runs it at any moment. The value is the validation loss of the
weights that the run is used with, in nats per token without label smoothing; less is better.
"""

import random
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from transformer_jax import storage
from transformer_jax.config.files import differences, in_words
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError, one_line
from transformer_jax.sweeps.leases import Leases
from transformer_jax.sweeps.summary import ENDED, Point

_STATES = {
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
# What Optuna raises for other choices than an earlier trial had, and for another kind of parameter.
_CHANGED = ("dynamic value space", "different distribution kind")
_CORRECT = "correct the experiment file"
_ELSEWHERE = "choose another --workdir"
SearchSpace = Callable[[optuna.Trial], dict[str, Any]]


class Study:
    """The study called `name` in the database at `url`; both are created if they do not exist.

    Attributes:
      leases: of the points that this launcher has claimed, by name.
    """

    def __init__(self, url: str, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage, self.leases = _open(url, name, clock)
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            direction="minimize",
            pruner=optuna.pruners.MedianPruner(),
            load_if_exists=True,
        )

    def check(self, config: Config, points: str) -> None:
        """Records the experiment of the study, or compares it with the record.

        Args:
          config: the base experiment.
          points: where the points come from: "sweep()" or "search_space()".

        Raises:
          UserError: if the study has another base, or points from elsewhere.
        """
        now = flatten(config)
        with self.leases.lock():
            saved = self._study.user_attrs.get("config")
            if saved is None:
                self._study.set_user_attr("points", points)
                self._study.set_user_attr("config", now)  # last: a record without it is incomplete
                return
            known = self._study.user_attrs.get("points")
        sweep = f"the sweep {self._study.study_name} was started with"
        if known != points:
            raise UserError(f"{sweep} the points of a {known}, not a {points}: {_ELSEWHERE}")
        differing = differences(saved, now, Change.ANY_TIME)
        if differing:
            raise UserError(f"{sweep} other options ({in_words(differing, 'then')}): {_ELSEWHERE}")

    def enqueue(self, points: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Adds the points that the study lacks, and those that failed once more.

        Raises:
          UserError: if the study has a point of the same name with other overrides.
        """
        with self.leases.lock():
            known = {point.name: point for point in self.points()}
            for name, overrides in points:
                old = known.get(name)
                if old and old.overrides != overrides:
                    raise UserError(
                        f"point {name} was started with {old.overrides}, and is {overrides} now: "
                        f"rename it, or {_ELSEWHERE}"
                    )
                if old is None or old.state == "failed":
                    point = {"name": name, "overrides": overrides}
                    self._study.add_trial(
                        optuna.create_trial(state=TrialState.WAITING, user_attrs={"point": point})
                    )

    def points(self) -> list[Point]:
        """All points in the order in which they were added; a retried point is its last trial."""
        living = self.leases.living()
        trials = {}
        for trial in self._study.get_trials(deepcopy=False):
            if "point" in trial.user_attrs:
                trials[trial.user_attrs["point"]["name"]] = trial
        return [_point(name, trial, living) for name, trial in trials.items()]

    def suggest(self, search_space: SearchSpace, number: int, *, seed: int) -> bool:
        """Adds a point that `search_space` and Optuna's TPE choose; False if there are `number`.

        A trial for which it raises optuna.TrialPruned counts, but is no point. What else it raises
        propagates, and that trial does not count.

        Args:
          search_space: of the experiment file.
          number: the number of trials in all.
          seed: with one worker, nothing else decides the points of a search.

        Raises:
          UserError: if `search_space` has changed since an earlier trial.
        """
        with self.leases.lock():
            trials = self._study.get_trials(deepcopy=False)
            # Under the lock, a trial without a point was left by a launcher that was killed here.
            bare = [trial for trial in trials if "point" not in trial.user_attrs]
            left = [trial for trial in bare if trial.state == TrialState.RUNNING]
            failed = sum(trial.state == TrialState.FAIL for trial in bare)
            if not left and len(trials) - failed >= number:
                return False
            with warnings.catch_warnings():  # constant_liar was experimental before Optuna 5
                warnings.simplefilter("ignore")
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=(seed * 100_003 + len(trials)) % 2**32, constant_liar=True
                )
            trial = optuna.Trial(self._study, left[0]._trial_id) if left else self._study.ask()
            try:
                overrides = search_space(trial)
            except optuna.TrialPruned:
                self._study.tell(trial, state=TrialState.PRUNED)
                return True
            except Exception as e:
                self._study.tell(trial, state=TrialState.FAIL)
                if not _is_optunas(e):
                    raise
                reason = one_line(e, 300)
                changed = any(text in reason for text in _CHANGED)
                what, change = ("has changed", _ELSEWHERE) if changed else ("is refused", _CORRECT)
                raise UserError(f"search_space() {what} ({reason}): {change}") from None
            name = f"trial_{trial.number:04}"
            trial.set_user_attr("point", {"name": name, "overrides": overrides})
            return True

    def claim(self, point: Point) -> bool:
        """Takes a point, to run it; returns False if another launcher has it, or it has ended."""
        if not self.leases.take(point.name):
            return False
        # The trial can no longer change, but may have changed since `point` was read.
        trial = self._storage.get_trial(point.trial_id)
        if trial.state.is_finished():
            self.leases.release(point.name)
            return False
        if trial.state == TrialState.WAITING:
            self._storage.set_trial_state_values(point.trial_id, TrialState.RUNNING)
        return True

    def should_prune(self, point: Point, valid: Sequence[tuple[int, float]]) -> bool:
        """Records a claimed point's validation losses; True if they are worse than the median."""
        known = self._storage.get_trial(point.trial_id).intermediate_values
        new = [(step, loss) for step, loss in valid if step not in known]
        for step, loss in new:
            self._storage.set_trial_intermediate_value(point.trial_id, step, loss)
        trial = self._storage.get_trial(point.trial_id)
        return bool(new) and self._study.pruner.prune(self._study, trial)

    def end(
        self, point: Point, state: str, *, value: float | None = None, reason: str = ""
    ) -> None:
        """Gives a claimed point back in a state of ENDED, or "interrupted", to be resumed."""
        if reason:
            self._storage.set_trial_user_attr(point.trial_id, "reason", reason)
        if state in ENDED:
            number = self._storage.get_trial_number_from_id(point.trial_id)
            (ended,) = (found for found, name in _STATES.items() if name == state)
            self._study.tell(number, value, state=ended)
        self.leases.release(point.name)


def _is_optunas(error: BaseException) -> bool:
    """Whether Optuna raised it, or what Optuna called, and not the search space itself."""
    modules = (frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.partition(".")[0] == "optuna" for module in modules)


def _point(name: str, trial: FrozenTrial, living: set[str]) -> Point:
    state = _STATES.get(trial.state) or ("running" if name in living else "interrupted")
    attributes = trial.user_attrs
    return Point(
        name=name,
        overrides=attributes["point"]["overrides"],
        state=state,
        value=trial.value if state in ENDED else None,
        reason=attributes.get("reason", ""),
        trial_id=trial._trial_id,
    )


def _open(
    url: str, name: str, clock: Callable[[], float]
) -> tuple[optuna.storages.RDBStorage, Leases]:
    """The database and the leases in it; retries if another launcher creates the same tables."""
    for _ in range(5):
        try:
            # SQLite itself waits only 5 seconds for another process to finish writing.
            wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
            storage = optuna.storages.RDBStorage(url, engine_kwargs=wait)
            return storage, Leases(storage.engine, name, clock=clock)
        except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, ImportError) as e:
            error = e
            if isinstance(e, ImportError | sqlalchemy.exc.ArgumentError):
                break
            time.sleep(random.uniform(0.1, 0.5))
    raise UserError(
        f"--sweep_storage={shown(url)} cannot be opened: {one_line(error, 200)}"
    ) from None


def shown(url: str) -> str:
    """`url` without its password."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def resolved(url: str) -> str:
    """`url`, of SQLite with the absolute path of its file."""
    try:
        parsed = sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:  # which opening it reports
        return url
    if not parsed.drivername.startswith("sqlite") or parsed.database in (None, "", ":memory:"):
        return url
    whole = parsed.set(database=storage.absolute(parsed.database))
    return whole.render_as_string(hide_password=False)
