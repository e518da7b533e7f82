"""The command line: an experiment file, overrides of its options, and one line for every mistake.

Overrides go through ml_collections' config_flags, which knows the options' types. Around it stands
what it lacks: a wrong name, type or file gives one clear line, and names the nearest right one.
"""

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import config_flags

from transformer_jax import config as configs
from transformer_jax import storage
from transformer_jax.config import (
    CONFIG_FILE,
    PREEMPTED_STATUS,
    Config,
    Preempted,
    UserError,
    nearest,
)


def run(main: Callable[[list[str]], None], *, default_experiment: Path) -> None:
    """Defines --config, parses the flags, calls `main`; exits with status 2 on a user's mistake.

    Args:
      main: what absl's app.run would call.
      default_experiment: used when neither --config nor an existing --workdir says which.
    """
    try:
        config, argv = load_config(_with_flag_files(sys.argv), default_experiment)
        # First, because config_flags answers an unknown option with a KeyError.
        _check_overrides(argv, config)
        config_flags.DEFINE_config_dataclass("config", config, sys_argv=argv)
        app.run(main, argv=argv, flags_parser=_parse)
    except UserError as e:
        _stop(f"error: {_one_line(e)}", 2)  # what it quotes may hold anything
    except OSError as e:  # a disk that is full, a file that is not ours
        _stop(f"error: {e.filename or 'input or output'}: {e.strerror or e}", 2)
    except Preempted as e:
        _stop(f"stopped as asked: {e}; the same line goes on", PREEMPTED_STATUS)
    except KeyboardInterrupt:
        _stop("\ninterrupted", 130)
    except Exception:
        if not _joined():
            raise
        _stop(
            f"{traceback.format_exc()}\nerror: this process of several stopped. If it did because "
            "another one ended, that one's output has the reason; the same line goes on from the "
            "workdir",
            1,
        )


def _stop(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    # Leaving in good order waits for the other processes, which may be waiting for this one. Gone
    # at once, it is missed, and they stop too. One that was asked to stop may be compiling: taking
    # Python down around a thread of XLA has crashed.
    if _joined() or status == PREEMPTED_STATUS:
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def _joined() -> bool:
    """Whether this is one of several processes, without importing jax to find out."""
    parallel = sys.modules.get("transformer_jax.parallel")
    return parallel is not None and parallel.joined()


def load_config(argv: list[str], default_experiment: Path) -> tuple[Config, list[str]]:
    """The configuration that `argv` names, and `argv` without its --config=FILE.

    It comes from --config=FILE.py, or else from the workdir, or else is the default experiment.
    --sweep_index=i makes it the i-th point of that file's sweep().
    """
    given, rest = {}, []
    for number, argument in enumerate(argv):
        name, has_value, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in ("config", "workdir", "sweep_index"):
            if not has_value:
                value = argv[number + 1] if number + 1 < len(argv) else ""
                raise UserError(f"write --{name}={value or '…'}, with an equals sign")
            given[name] = value
        if not argument.startswith("-") or name != "config":
            rest.append(argument)
    if "sweep_index" in given:
        if "config" not in given:
            raise UserError("--sweep_index needs --config=FILE.py, whose sweep() it picks from")
        return _load_point(Path(given["config"]), given["sweep_index"]), rest
    if "config" in given:
        return load_experiment(Path(given["config"])), rest
    workdir = given.get("workdir", "")
    # A bucket is read where --target says, from where this machine may not reach it.
    if workdir and not (_has_target(argv) and workdir.startswith(storage.BUCKET)):
        saved = storage.path(workdir) / CONFIG_FILE
        if saved.exists():
            return configs.load(saved), rest
    return load_experiment(default_experiment), rest


def _has_target(argv: list[str]) -> bool:
    return any(a.startswith("-") and a.lstrip("-").split("=")[0] == "target" for a in argv)


def load_experiment(path: Path) -> Config:
    """What get_config() of an experiment file returns; "file.py:arg" gives get_config("arg").

    Raises:
      UserError: if there is no such file, or no such function in it.
    """
    module, name, argument = _load_module(path)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={name} has no function get_config()")
    takes = len(inspect.signature(module.get_config).parameters)
    if argument and not takes:
        raise UserError(f"--config={path}: get_config() of {name} takes no argument")
    config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, Config):
        raise UserError(f"get_config() of {name} returned a {type(config).__name__}, not a Config")
    return config


def named_experiment() -> Path | None:
    """The experiment file that this process's --config=FILE.py names, as it is written; or none."""
    named = [a for a in _with_flag_files(sys.argv) if a.lstrip("-").startswith("config=")]
    return Path(named[-1].partition("=")[2]) if named else None


def arguments_without(own: Collection[str]) -> list[str]:
    """This process's arguments without the flags in `own`, for another one."""
    return [
        argument
        for argument in _with_flag_files(sys.argv)[1:]
        if argument.lstrip("-").partition("=")[0].removeprefix("no") not in own
    ]


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


def apply_overrides(config: Config, overrides: dict[str, Any], *, origin: str) -> None:
    """Sets options of `config` by dotted name: {"model.num_layers": 2}.

    Args:
      config: changed in place.
      overrides: values of the options' types; a whole number will do for a number.
      origin: what an error names as the place to mend.

    Raises:
      UserError: if there is no such option, or its type is another.
    """
    known = configs.flatten(config)
    for option, value in overrides.items():
        if option not in known:
            near = _nearest_option(option, known)
            raise UserError(f"{origin}: there is no option {option}{near}")
        kind = type(known[option])
        # In Python True is a whole number, and here it is not.
        fits = isinstance(value, bool) == (kind is bool)
        if not fits or not isinstance(value, (int, float) if kind is float else kind):
            raise UserError(f"{origin}: {option}={value!r} is not {_KINDS[kind][1]}")
        section, _, name = option.rpartition(".")
        setattr(getattr(config, section) if section else config, name, kind(value))


def _load_point(path: Path, index: str) -> Config:
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
    if not file.is_file():
        known = [str(p) for p in file.parent.glob("*.py")] or [
            str(p) for p in Path("experiments").glob("*.py")
        ]
        raise UserError(f"--config={name}: there is no such file{nearest(name, known)}")
    spec = importlib.util.spec_from_file_location(f"experiments.{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, name, argument


def _with_flag_files(argv: list[str]) -> list[str]:
    """`argv` with the content of --flagfile=FILE in its place."""
    try:
        return [argv[0], *flags.FLAGS.read_flags_from_files(argv[1:])]
    except flags.Error as e:
        raise UserError(_one_line(e)) from None


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as e:
        raise UserError(_one_line(e)) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_overrides(argv: list[str], config: Config) -> None:
    known = configs.flatten(config)
    for option, value in overrides_in(argv[1:]):
        if option not in known:
            raise UserError(f"there is no option --config.{option}{_nearest_option(option, known)}")
        _check_type(option, value, known[option])


def _nearest_option(option: str, known: dict[str, object]) -> str:
    """The option of that name in another section, or else the nearest whole name."""
    last = option.rpartition(".")[2]
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    return f" (did you mean {elsewhere[0]}?)" if elsewhere else nearest(option, list(known))


def _check_type(option: str, value: str, default: object) -> None:
    parse, what = _KINDS[type(default)]
    try:
        parse(value or "0")  # "" is left to absl: the value may be the next argument
    except ValueError:
        raise UserError(f"--config.{option}={value!r} is not {what}") from None


_KINDS = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (flags.BooleanParser().parse, "true or false"),
    str: (str, "text"),
}
