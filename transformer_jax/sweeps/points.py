"""The points of a sweep, put together from small parts, in an experiment file:

    from transformer_jax.sweep_points import grid

    def sweep():
        yield from grid({"optimizer.learning_rate_scale": [0.5, 1.0], "seed": [0, 1]})

A point is a dict of overrides by dotted name, with a "name" for its workdir. Every function here
takes and returns lists of points, and names those that have no name after what they change: these
four are learning_rate_scale_0.5_seed_0, learning_rate_scale_0.5_seed_1, and so on.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from transformer_jax.errors import UserError

Point = dict[str, Any]
# The values of some options, {"seed": [0, 1]}, or points as another function here returns them.
Part = Mapping[str, Iterable[Any]] | Iterable[Point]


def grid(*parts: Part) -> list[Point]:
    """Every choice from one part with every choice from the others; the last varies fastest.

    >>> [p["name"] for p in grid({"seed": [0, 1], "model.d_ff": [17, 19]})]
    ['seed_0_d_ff_17', 'seed_0_d_ff_19', 'seed_1_d_ff_17', 'seed_1_d_ff_19']
    >>> grid([{"name": "deep", "model.num_layers": 8}], {"seed": [3]})
    [{'name': 'deep_seed_3', 'model.num_layers': 8, 'seed': 3}]

    Raises:
      UserError: if two parts set the same option, or an option has no list of values.
    """
    choices = [axis for part in parts for axis in _axes(part)]
    return [_together(chosen) for chosen in itertools.product(*choices)]


def zip_(*parts: Part) -> list[Point]:
    """The first choices of all parts together, then the second ones, and so on.

    >>> zip_({"model.d_model": [16, 32], "model.d_ff": [64, 128]})[1]
    {'name': 'd_model_32_d_ff_128', 'model.d_model': 32, 'model.d_ff': 128}

    Raises:
      UserError: if the parts are not of one length, two set the same option, or an option has no
        list of values.
    """
    choices = [axis for part in parts for axis in _axes(part)]
    lengths = [len(axis) for axis in choices]
    if len(set(lengths)) > 1:
        raise UserError(f"zip_() needs parts of one length, not of {', '.join(map(str, lengths))}")
    return [_together(chosen) for chosen in zip(*choices, strict=True)]


def chain(*sweeps: Iterable[Point]) -> list[Point]:
    """The points of one sweep, then those of the next.

    >>> [p["name"] for p in chain([{}], grid({"seed": [1, 2]}))]
    ['base', 'seed_1', 'seed_2']
    """
    return [point for sweep in sweeps for point in named(sweep)]


def named(points: Iterable[Point], prefix: str = "") -> list[Point]:
    """The points with names, which begin with `prefix`.

    >>> named([{"model.dropout_rate": 0.1}, {"name": "big", "model.d_model": 1024}], "try")
    [{'name': 'try_dropout_rate_0.1', 'model.dropout_rate': 0.1},
     {'name': 'try_big', 'model.d_model': 1024}]
    """
    named = []
    for point in points:
        name = point.get("name") or _name(point)
        named.append(point | {"name": f"{prefix}_{name}" if prefix else name})
    return [{"name": point["name"], **point} for point in named]


def _axes(part: Part) -> list[list[Point]]:
    """What is chosen from: one list for each option of a mapping, or the one of points."""
    if not isinstance(part, Mapping):
        return [list(part)]
    for option, values in part.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"{option} of a sweep needs a list of values, not {values!r}")
    return [[{option: value} for value in values] for option, values in part.items()]


def _together(points: Iterable[Point]) -> Point:
    """One point that changes what all of `points` change."""
    merged: Point = {}
    names = []
    for point in points:
        overrides = {option: value for option, value in point.items() if option != "name"}
        twice = merged.keys() & overrides.keys()
        if twice:
            raise UserError(f"two parts of a sweep set {', '.join(sorted(twice))}")
        merged |= overrides
        names.append(point.get("name") or (_name(overrides) if overrides else ""))
    return {"name": "_".join(filter(None, names)) or "base", **merged}


def _name(point: Point) -> str:
    """{"model.d_ff": 17, "seed": 1} → "d_ff_17_seed_1": it is a folder's name, too."""
    options = [option for option in point if option != "name"]
    last = [option.rpartition(".")[2] for option in options]
    words = []
    for option, short in zip(options, last, strict=True):
        words.append(option if last.count(short) > 1 else short)
        words.append(re.sub(r"[^\w.+-]", "-", str(point[option])))
    return "_".join(words) or "base"
