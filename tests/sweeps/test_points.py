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


def test_the_docstrings_examples():
    failed, tried = doctest.testmod(sweeps_points, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (failed, tried) == (0, 5)


@given(mappings)
def test_a_grid_has_every_choice_once_under_its_own_name(options):
    points = grid(options)
    assert len({p["name"] for p in points}) == len(points) == math.prod(map(len, options.values()))
    for number, point in enumerate(points):  # the last option varies fastest
        for option in reversed(options):
            number, choice = divmod(number, len(options[option]))
            assert point[option] == options[option][choice]
        assert set(point) == {"name", *options}
    assert grid(*({option: choices} for option, choices in options.items())) == points
    assert grid(*(grid({option: choices}) for option, choices in options.items())) == points


@given(st.lists(st.tuples(st.integers(), st.booleans()), min_size=1, max_size=5))
def test_zip_goes_through_its_parts_together(pairs):
    first, second = zip(*pairs, strict=True)
    points = zip_({"seed": first}, [{"model.remat": value} for value in second])
    assert [(p["seed"], p["model.remat"]) for p in points] == pairs
    assert points == zip_({"seed": first, "model.remat": second})


def test_a_chain_keeps_names_and_adds_missing_ones():
    given = [{"name": "own", "seed": 3}, {"model.d_ff": 17}]
    points = chain([{}], iter(given), grid({"seed": [1]}))
    assert [point["name"] for point in points] == ["base", "own", "d_ff_17", "seed_1"]
    assert [len(point) for point in points] == [1, 2, 2, 2]
    assert given == [{"name": "own", "seed": 3}, {"model.d_ff": 17}], "they are not changed"


@pytest.mark.parametrize(
    ("point", "prefix", "name"),
    [
        ({"model.norm": "pre", "optimizer.epsilon": 1e-9}, "", "norm_pre_epsilon_1e-09"),
        ({"demo": "a/b c"}, "x", "x_demo_a-b-c"),
        # Of two options with one last name, all of it.
        ({"data.path": "p", "model.path": "q"}, "", "data.path_p_model.path_q"),
    ],
)
def test_a_name_is_made_of_what_changes(point, prefix, name):
    assert named([point], prefix)[0]["name"] == name


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="two parts of a sweep set seed"):
        grid({"seed": [1]}, [{"seed": 2}])
    with pytest.raises(UserError, match="parts of one length, not of 2, 3"):
        zip_({"seed": [1, 2], "model.d_ff": [3, 5, 7]})
