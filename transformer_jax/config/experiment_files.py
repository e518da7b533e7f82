"""Experiment files: get_config(), sweep(), search_space(), paper(); overrides by dotted name."""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def checkout_folder() -> Path:
    """The folder that the package is in: a checkout, unless the package is installed."""
    return _PACKAGE.parent


def experiments_folder() -> Path:
    """The project's experiment files: of the checkout, or the copies in an installed package."""
    beside, inside = checkout_folder() / "experiments", _PACKAGE / "experiments"
    return inside if inside.is_dir() else beside


def load_experiment(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Reads a configuration from an experiment file, by calling its get_config().

    Args:
      path: the file; "file.py:arg" calls get_config("arg"). "experiments/NAME.py" is the project's
        own where there is no such file.
      overrides: options to change, by dotted name: {"train.steps": 100}.

    Raises:
      UserError: if there is no such file, no such function in it, or no such option.
    """
    module, name, argument = _load_module(Path(path))
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={name} has no function get_config()")
    takes = len(inspect.signature(module.get_config).parameters)
    if argument and not takes:
        raise UserError(f"--config={path}: get_config() of {name} takes no argument")
    config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, Config):
        raise UserError(f"get_config() of {name} returned a {type(config).__name__}, not a Config")
    apply_overrides(config, overrides or {}, origin="overrides")
    return config


def overrides_in(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(option, value as it is written) of each --config.option=value among `arguments`."""
    found = []
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        prefix, _, option = name.partition(".")
        if argument.startswith("-") and prefix in ("config", "noconfig"):
            found.append((option, value))
    return found


def load_sweep(path: Path) -> list[dict[str, Any]]:
    """The points of an experiment file's sweep(): overrides by dotted name, "name" among them.

    "file.py:arg" gives sweep("arg") where sweep() takes an argument.

    Raises:
      UserError: if there is no such file or function, or two points would share a workdir.
    """
    module, name, argument = _load_module(path)
    if not hasattr(module, "sweep"):
        other = "; for its search_space() give --sweep_trials=…"
        hint = other if hasattr(module, "search_space") else ""
        raise UserError(f"--config={name} has no function sweep(){hint}")
    takes = len(inspect.signature(module.sweep).parameters)
    found = module.sweep(argument) if argument and takes else module.sweep()
    if not isinstance(found, Iterable):
        raise UserError(f"sweep() of {name} returned a {type(found).__name__}, not its points")
    points = list(found)
    names = set()
    for number, point in enumerate(points):
        if not isinstance(point, dict):
            found = type(point).__name__
            raise UserError(f"point {number} of sweep() of {name} is a {found}, not a dict")
        if "name" not in point or point["name"] in names:
            raise UserError(
                f"point {number} of sweep() of {name} needs a name of its own, for its workdir: "
                f"it has {point.get('name')!r}"
            )
        names.add(point["name"])
    return points


def load_search_space(path: Path) -> Callable[[Any], dict[str, Any]]:
    """The search_space(trial) of an experiment file; what it returns is a point without a name.

    "file.py:arg" gives search_space(trial, "arg") where it takes two arguments.

    Raises:
      UserError: if there is no such file or function.
    """
    module, name, argument = _load_module(path)
    if not hasattr(module, "search_space"):
        raise UserError(f"--config={name} has no function search_space(trial)")
    takes = len(inspect.signature(module.search_space).parameters)
    if argument and takes > 1:
        return lambda trial: module.search_space(trial, argument)
    return module.search_space


def load_paper(path: Path) -> Callable[[str], dict[str, Any] | None] | None:
    """The paper(name) of an experiment file: what a paper printed of the point of that name.

    It returns {"row": "base", "perplexity": 4.92, "bleu": 25.8, "test_bleu": 27.3, "millions": 65,
    "flops": 3.3e18} (per piece, of the validation set; 0–100, of the validation and the test set;
    of parameters; of the training), without what the paper does not print; or None: the paper has
    no such row.

    Returns:
      The function; None if the file has none.

    Raises:
      UserError: if there is no such file.
    """
    module, _, _ = _load_module(path)
    return getattr(module, "paper", None)


def apply_overrides(config: Config, overrides: Mapping[str, Any], *, origin: str) -> None:
    """Sets options of `config` by dotted name: {"model.num_layers": 2}.

    Args:
      config: changed in place.
      overrides: values of the options' types; a whole number will do for a number.
      origin: what an error names as the place to mend.

    Raises:
      UserError: if there is no such option, or its type is another.
    """
    known = flatten(config)
    for option, value in overrides.items():
        if option not in known:
            near = nearest_option(option, known)
            raise UserError(f"{origin}: there is no option {option}{near}")
        kind = type(known[option])
        # In Python True is a whole number, and here it is not.
        fits = isinstance(value, bool) == (kind is bool)
        if not fits or not isinstance(value, (int, float) if kind is float else kind):
            raise UserError(f"{origin}: {option}={value!r} is not {KINDS[kind][1]}")
        section, _, name = option.rpartition(".")
        setattr(getattr(config, section) if section else config, name, kind(value))


def load_point(path: Path, index: str) -> Config:
    try:
        number = int(index)
    except ValueError:
        raise UserError(f"--sweep_index={index}: {index!r} is not a whole number") from None
    config, points = load_experiment(path), load_sweep(path)
    if not 0 <= number < len(points):
        raise UserError(
            f"--sweep_index={number}: sweep() of {path} has {len(points)} points, numbered from 0"
        )
    apply_overrides(config, points[number], origin=f"point {number} of sweep() of {path}")
    return config


def _load_module(path: Path) -> tuple[ModuleType, str, str]:
    """The module "file.py" of "file.py:arg", the file's name, and "arg"."""
    name, _, argument = str(path).partition(":")
    file = Path(name)
    if not file.is_file() and file.parent == Path("experiments"):
        file = experiments_folder() / file.name
    if not file.is_file():
        file = Path(name)
        known = [str(p) for p in file.parent.glob("*.py")] or [
            str(Path("experiments") / p.name) for p in experiments_folder().glob("*.py")
        ]
        raise UserError(f"--config={name}: there is no such file{nearest(name, known)}")
    spec = importlib.util.spec_from_file_location(f"experiments.{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={name} is not a Python file")
    # An experiment may build on another: `from experiments import wmt14_en_de_base`.
    package = ModuleType("experiments")
    package.__path__ = [str(file.parent), str(experiments_folder())]
    sys.modules["experiments"] = package
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, name, argument


def nearest_option(option: str, known: dict[str, object]) -> str:
    """The option of that name in another section, or else the nearest whole name."""
    last = option.rpartition(".")[2]
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    return f" (did you mean {elsewhere[0]}?)" if elsewhere else nearest(option, list(known))


KINDS = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (flags.BooleanParser().parse, "true or false"),
    str: (str, "text"),
}
