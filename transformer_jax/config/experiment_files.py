"""Experiment files: get_config(), sweep(), search_space(), paper(); overrides by dotted name.

FILE:ARG, on the command line, passes ARG to the functions that take an argument.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from transformer_jax import storage
from transformer_jax.config.metadata import KINDS
from transformer_jax.config.options import OPTIONS, Config, nearest_option, set_option
from transformer_jax.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]
_PARSERS = {int: int, float: float, bool: flags.BooleanParser().parse, str: str}


def checkout_folder() -> Path:
    """The folder that the package is in: a checkout, unless the package is installed."""
    return _PACKAGE.parent


def experiments_folder() -> Path:
    """The project's experiment files: of the checkout, or the copies in an installed package."""
    beside, inside = checkout_folder() / "experiments", _PACKAGE / "experiments"
    return inside if inside.is_dir() else beside


def experiment_file(name: str) -> Path:
    """The file called `name`; "experiments/NAME.py" is the project's own if there is none here."""
    file = Path(storage.absolute(name))
    if not file.is_file() and Path(name).parent == Path("experiments"):
        return experiments_folder() / file.name
    return file


def load_experiment(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Reads a configuration from an experiment file, by calling its get_config().

    Args:
      path: the file, as for `experiment_file`; "file.py:arg" calls get_config("arg").
      overrides: options to change, by dotted name: {"train.steps": 100}.

    Raises:
      UserError: if there is no such file, no such function in it, or no such option.
    """
    module, name, argument = _load_module(Path(path))
    get_config = _function(module, "get_config()", name)
    if argument and not _arity(get_config):
        raise UserError(f"--config={path}: get_config() of {name} takes no argument")
    config = get_config(argument) if argument else get_config()
    if not isinstance(config, Config):
        raise UserError(f"get_config() of {name} returned a {type(config).__name__}, not a Config")
    apply_overrides(config, overrides or {}, origin="overrides")
    return config


def load_sweep(path: Path) -> list[dict[str, Any]]:
    """Returns the points of sweep(): overrides by dotted name, and a unique "name".

    Raises:
      UserError: if there is no such file or function, or two points would share a workdir.
    """
    module, name, argument = _load_module(path)
    hint = "; for its search_space(), set --sweep_trials" if hasattr(module, "search_space") else ""
    sweep = _function(module, "sweep()", name, hint)
    found = sweep(argument) if argument and _arity(sweep) else sweep()
    if not isinstance(found, Iterable):
        raise UserError(f"sweep() of {name} returned a {type(found).__name__}, not its points")
    points, names = list(found), set()
    for number, point in enumerate(points):
        origin = f"point {number} of sweep() of {name}"
        if not isinstance(point, dict):
            raise UserError(f"{origin} is a {type(point).__name__}, not a dict")
        if "name" not in point or point["name"] in names:
            raise UserError(
                f"{origin} needs a name of its own, for its workdir: it has {point.get('name')!r}"
            )
        names.add(point["name"])
    return points


def load_point(path: Path, index: str) -> Config:
    """Returns the configuration of the point of sweep() with that index, counted from 0.

    Raises:
      UserError: if there is no such file, function or point.
    """
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


def load_search_space(path: Path) -> Callable[[Any], dict[str, Any]]:
    """Returns search_space(trial), which returns a point without a name.

    Raises:
      UserError: if there is no such file or function.
    """
    module, name, argument = _load_module(path)
    search_space = _function(module, "search_space(trial)", name)
    if argument and _arity(search_space) > 1:
        return lambda trial: search_space(trial, argument)
    return search_space


def load_paper(path: Path) -> Callable[[str], dict[str, Any] | None] | None:
    """Returns paper(name): what a paper printed about the point of that name; None if undefined.

    It returns {"row": "base", "perplexity": 4.92, "bleu": 25.8, "test_bleu": 27.3, "millions": 65,
    "flops": 3.3e18}, without what the paper does not print, or None if the paper has no such row.
    The perplexity is per piece of the validation set; BLEU is 0 to 100, of the validation and the
    test set; the millions are parameters; the FLOPs are those of the training.

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
      origin: where the overrides come from, for errors.

    Raises:
      UserError: if there is no such option, or its type is another.
    """
    for name, value in overrides.items():
        if name not in OPTIONS:
            raise UserError(f"{origin}: there is no option {name}{nearest_option(name)}")
        try:
            set_option(config, name, value)
        except UserError as e:
            raise UserError(f"{origin}: {e}") from None


def overrides_in(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(option, value as it is written) of each --config.option=value among `arguments`."""
    found = []
    for argument in arguments:
        name, _, value = argument.lstrip("-").partition("=")
        prefix, _, option = name.partition(".")
        if argument.startswith("-") and prefix in ("config", "noconfig"):
            found.append((option, value))
    return found


def check_overrides(arguments: Sequence[str]) -> None:
    """Raises UserError for a --config.option=value without such an option, or of another type."""
    for name, value in overrides_in(arguments):
        if name not in OPTIONS:
            raise UserError(f"there is no option --config.{name}{nearest_option(name)}")
        kind = OPTIONS[name].kind
        try:
            _PARSERS[kind](value or "0")  # "" is left to absl: the value may be the next argument
        except ValueError:
            raise UserError(f"--config.{name}={value!r} is not {KINDS[kind]}") from None


def _load_module(path: Path) -> tuple[ModuleType, str, str]:
    """The module "file.py" of "file.py:arg", the file's name, and "arg"."""
    name, _, argument = str(path).partition(":")
    file = experiment_file(name)
    if not file.is_file():
        known = [str(p) for p in Path(name).parent.glob("*.py")] or [
            str(Path("experiments") / p.name) for p in experiments_folder().glob("*.py")
        ]
        raise UserError(f"--config={name}: there is no such file as {file}{nearest(name, known)}")
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


def _function(module: ModuleType, signature: str, file: str, hint: str = "") -> Callable[..., Any]:
    found = getattr(module, signature.partition("(")[0], None)
    if found is None:
        raise UserError(f"--config={file} has no function {signature}{hint}")
    return found


def _arity(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)
