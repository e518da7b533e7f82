"""The functions that compose the points of a sweep."""

import doctest
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer_jax.errors import UserError
from transformer_jax.sweeps import points as sweeps_points
from transformer_jax.sweeps.points import chain, grid, named, zip_

OPTIONS = ["seed", "model.d_ff", "model.dropout_rate", "train.steps", "optimizer.clip_norm"]
values = st.lists(st.integers(0, 99) | st.floats(0, 1), unique=True, min_size=1, max_size=4)
mappings = st.dictionaries(st.sampled_from(OPTIONS), values, max_size=3)


def overrides(point):
    return {option: value for option, value in point.items() if option != "name"}


def test_the_docstrings_examples():
    flags = doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(sweeps_points, optionflags=flags)
    assert (failed, tried) == (0, 5)


@given(mappings)
def test_a_grid_has_every_choice_once_under_its_own_name(options):
    points = grid(options)
    assert len(points) == math.prod(map(len, options.values()))
    for number, point in enumerate(points):  # the last option varies fastest
        for option in reversed(options):
            number, choice = divmod(number, len(options[option]))
            assert point[option] == options[option][choice]
        assert set(overrides(point)) == set(options)
    distinct = {tuple(map(str, overrides(p).values())) for p in points}  # 1 and 1.0 are one number
    assert len({p["name"] for p in points}) == len(distinct) == len(points)


@given(mappings)
def test_a_grid_of_grids_is_the_grid_of_all(options):
    parts = [grid({option: choices}) for option, choices in options.items()]
    assert grid(*parts) == grid(options)
    assert grid(*({option: choices} for option, choices in options.items())) == grid(options)


@given(st.lists(st.tuples(st.integers(), st.booleans()), min_size=1, max_size=5))
def test_zip_goes_through_its_parts_together(pairs):
    first, second = zip(*pairs, strict=True)
    points = zip_({"seed": first}, [{"model.remat": value} for value in second])
    assert [(p["seed"], p["model.remat"]) for p in points] == pairs
    assert points == zip_({"seed": first, "model.remat": second})


def test_a_chain_keeps_names_and_adds_missing_ones():
    points = chain([{}], [{"name": "own", "seed": 3}], grid({"seed": [1, 2]}))
    assert points == [
        {"name": "base"},
        {"name": "own", "seed": 3},
        {"name": "seed_1", "seed": 1},
        {"name": "seed_2", "seed": 2},
    ]


def test_a_name_is_made_of_what_changes():
    (name,) = (p["name"] for p in named([{"model.norm": "pre", "optimizer.epsilon": 1e-9}]))
    assert name == "norm_pre_epsilon_1e-09"
    assert named([{"demo": "a/b c"}], "x")[0]["name"] == "x_demo_a-b-c"
    both = {"data.path": "p", "model.path": "q"}  # of two options with one last name, all of it
    assert named([both])[0]["name"] == "data.path_p_model.path_q"


def test_the_points_given_are_not_changed():
    given = [{"model.d_ff": 17}]
    assert named(iter(given)) == named(given)
    named(given), grid(given, {"seed": [1]}), chain(given), zip_(given)
    assert given == [{"model.d_ff": 17}]


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="two parts of a sweep set seed"):
        grid({"seed": [1]}, [{"seed": 2}])
    with pytest.raises(UserError, match="parts of one length, not of 2, 3"):
        zip_({"seed": [1, 2], "model.d_ff": [3, 5, 7]})
