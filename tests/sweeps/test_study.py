"""The study: the points of a sweep, their states, and Optuna's choice of points."""

import optuna
import pytest
from sweeping import database

from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.sweeps import study


def test_a_search_depends_on_the_seed_alone(tmp_path):
    def chosen(name, seed):
        opened = database(tmp_path, name)
        space = lambda trial: {"seed": trial.suggest_int("seed", 0, 10**6)}  # noqa: E731
        assert [opened.suggest(space, 3, seed=seed) for _ in range(5)] == [True] * 3 + [False] * 2
        return [point.overrides["seed"] for point in opened.points()]

    first = chosen("a", 5)
    assert chosen("b", 5) == first
    assert len({*first, *chosen("c", 6)}) == 6, "trials repeat each other"


def test_a_trial_without_a_point_is_used_next(tmp_path):
    opened = database(tmp_path)

    def killed(trial):
        trial.suggest_int("seed", 0, 10**6)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened.suggest(killed, 1, seed=0)
    assert opened.points() == []
    assert opened.suggest(lambda trial: {"seed": trial.params["seed"]}, 1, seed=0)
    (point,) = opened.points()
    assert point.name == "trial_0000"
    assert not opened.suggest(killed, 1, seed=0)


def test_an_infeasible_trial_counts_but_is_no_point(tmp_path):
    opened = database(tmp_path)

    def space(trial):
        if trial.number in (0, 2):
            raise optuna.TrialPruned
        return {"seed": trial.suggest_int("seed", 0, 10**6)}

    assert [opened.suggest(space, 4, seed=0) for _ in range(5)] == [True] * 4 + [False]
    assert [point.name for point in opened.points()] == ["trial_0001", "trial_0003"]


def test_a_trial_whose_search_space_raises_does_not_count(tmp_path):
    def wrong(trial):
        trial.suggest_categorical("width", [16, 32])
        raise KeyError("dmodel")

    def mended(trial):
        return {"model.d_model": trial.suggest_categorical("width", [16, 32])}

    for _ in range(2):
        with pytest.raises(KeyError):
            database(tmp_path).suggest(wrong, 1, seed=0)
    assert database(tmp_path).suggest(mended, 1, seed=0)
    assert not database(tmp_path).suggest(mended, 1, seed=0)
    assert len(database(tmp_path).points()) == 1
    wider = lambda trial: {"model.d_model": trial.suggest_categorical("width", [8, 64])}  # noqa: E731
    with pytest.raises(UserError, match=r"search_space\(\) has changed .*another --workdir"):
        database(tmp_path).suggest(wider, 2, seed=0)


def test_the_points_of_a_study_do_not_change(tmp_path):
    opened = database(tmp_path)
    opened.enqueue([("a", {"seed": 1})])
    opened.enqueue([("a", {"seed": 1}), ("b", {"seed": 2})])
    assert [point.name for point in opened.points()] == ["a", "b"]
    with pytest.raises(UserError, match=r"a was started with \{'seed': 1\}, and is \{'seed': 3\}"):
        opened.enqueue([("a", {"seed": 3})])


def test_a_point_that_ended_since_it_was_read_is_not_claimed(tmp_path):
    first, second = database(tmp_path), database(tmp_path)
    first.enqueue([("a", {"seed": 1})])
    (point,) = second.points()
    assert first.claim(point)
    first.end(point, "finished", value=3.5)
    assert not second.claim(point)
    assert second.points()[0].value == 3.5
    assert second.leases.living() == set()


def test_a_study_is_of_one_configuration(tmp_path):
    opened, config = database(tmp_path), Config(name="a")
    opened.check(config, "sweep()")
    config.name, config.data.path = "b", "elsewhere"
    opened.check(config, "sweep()")
    with pytest.raises(UserError, match=r"with the points of a sweep\(\), not a search_space"):
        database(tmp_path).check(config, "search_space()")
    config.model.d_ff = 17
    with pytest.raises(UserError, match=r"other options \(model.d_ff: 2048 then, 17 now\)"):
        database(tmp_path).check(config, "sweep()")


def test_a_launcher_that_is_killed_while_it_creates_a_study_does_not_spoil_it(
    tmp_path, monkeypatch
):
    put, left = optuna.Study.set_user_attr, [1]

    def killed(*arguments):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        put(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(optuna.Study, "set_user_attr", killed)
        database(tmp_path).check(Config(name="a"), "sweep()")
    for _ in range(2):
        database(tmp_path).check(Config(name="a"), "sweep()")


def test_a_password_is_not_shown():
    assert study.shown("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
