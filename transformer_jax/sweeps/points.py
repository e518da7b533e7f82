"""The points of a sweep, composed from small parts in an experiment file.

Example:
    import transformer_jax as tj

    def sweep():
        yield from tj.grid({"optimizer.learning_rate_scale": [0.5, 1.0], "seed": [0, 1]})

A point is a dict of overrides by dotted name, and a "name" for its workdir. Every function here
takes and returns lists of points, and names a point without a name after what it changes: these
four are learning_rate_scale_0.5_seed_0, learning_rate_scale_0.5_seed_1, and so on.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from transformer_jax.errors import UserError

Point = dict[str, Any]
# The values of some options, {"seed": [0, 1]}, or points that another function here has returned.
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
    return [_merge(chosen) for chosen in itertools.product(*_choices(parts))]


def zip_(*parts: Part) -> list[Point]:
    """The first choices of all parts together, then the second ones, and so on.

    >>> zip_({"model.d_model": [16, 32], "model.d_ff": [64, 128]})[1]
    {'name': 'd_model_32_d_ff_128', 'model.d_model': 32, 'model.d_ff': 128}

    Raises:
      UserError: as `grid`, and if the parts differ in length.
    """
    choices = _choices(parts)
    lengths = [len(axis) for axis in choices]
    if len(set(lengths)) > 1:
        raise UserError(f"zip_() needs parts of one length, not of {', '.join(map(str, lengths))}")
    return [_merge(chosen) for chosen in zip(*choices, strict=True)]


def chain(*sweeps: Iterable[Point]) -> list[Point]:
    """The points of one sweep, then those of the next.

    >>> [p["name"] for p in chain([{}], grid({"seed": [1, 2]}))]
    ['base', 'seed_1', 'seed_2']
    """
    return named(itertools.chain.from_iterable(sweeps))


def named(points: Iterable[Point], prefix: str = "") -> list[Point]:
    """The points with their names, which begin with `prefix`.

    >>> named([{"model.dropout_rate": 0.1}, {"name": "big", "model.d_model": 1024}], "try")
    [{'name': 'try_dropout_rate_0.1', 'model.dropout_rate': 0.1}, {'name': 'try_big',
    'model.d_model': 1024}]
    """
    start = f"{prefix}_" if prefix else ""
    return [{"name": start + (p.get("name") or _name(p))} | _overrides(p) for p in points]


def _choices(parts: Iterable[Part]) -> list[list[Point]]:
    """The axes of a product: one for each option of a mapping, and one for a list of points."""
    axes = []
    for part in parts:
        if not isinstance(part, Mapping):
            axes.append(list(part))
            continue
        for option, values in part.items():
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise UserError(f"{option} of a sweep needs a list of values, not {values!r}")
            axes.append([{option: value} for value in values])
    return axes


def _merge(points: Iterable[Point]) -> Point:
    """One point that changes what all of `points` change."""
    merged: Point = {}
    names = []
    for point in points:
        overrides = _overrides(point)
        if twice := merged.keys() & overrides.keys():
            raise UserError(f"two parts of a sweep set {', '.join(sorted(twice))}")
        merged |= overrides
        names.append(point.get("name") or (_name(overrides) if overrides else ""))
    return {"name": "_".join(filter(None, names)) or "base", **merged}


def _overrides(point: Point) -> Point:
    return {option: value for option, value in point.items() if option != "name"}


def _name(point: Point) -> str:
    """Names a folder after what a point changes: {"model.d_ff": 17, "seed": 1} → d_ff_17_seed_1."""
    options = _overrides(point)
    last = [option.rpartition(".")[2] for option in options]
    words = []
    for (option, value), short in zip(options.items(), last, strict=True):
        words.append(option if last.count(short) > 1 else short)
        words.append(re.sub(r"[^\w.+-]", "-", str(value)))
    return "_".join(words) or "base"
