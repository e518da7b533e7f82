"""The command line: an experiment file, overrides of its options, and one line for every mistake.

Overrides go through ml_collections' config_flags, which knows the options' types. Around it stands
what it lacks: a wrong name, type or file gives one clear line, and names the nearest right one.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from transformer_jax import config as configs
from transformer_jax.config import CONFIG_FILE, Config, UserError, nearest


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
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)
    except OSError as e:  # a disk that is full, a file that is not ours
        print(f"error: {e.filename or 'input or output'}: {e.strerror or e}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


def load_config(argv: list[str], default_experiment: Path) -> tuple[Config, list[str]]:
    """The configuration that `argv` names, and `argv` without its --config=FILE.

    It comes from --config=FILE.py, or else from the workdir, or else is the default experiment.
    """
    named, rest, workdir = None, [], None
    for number, argument in enumerate(argv):
        name, has_value, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name in ("config", "workdir") and not has_value:
            value = argv[number + 1] if number + 1 < len(argv) else ""
            raise UserError(f"write --{name}={value or '…'}, with an equals sign")
        is_config = argument.startswith("-") and name == "config"
        named = value if is_config else named
        workdir = value if argument.startswith("-") and name == "workdir" else workdir
        rest += [] if is_config else [argument]
    if named is not None:
        return load_experiment(Path(named)), rest
    if workdir is not None and (Path(workdir) / CONFIG_FILE).exists():
        return configs.load(Path(workdir) / CONFIG_FILE), rest
    return load_experiment(default_experiment), rest


def load_experiment(path: Path) -> Config:
    """What get_config() of an experiment file returns; "file.py:arg" gives get_config("arg").

    Raises:
      UserError: if there is no such file, or no such function in it.
    """
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
    if not hasattr(module, "get_config"):
        raise UserError(f"--config={name} has no function get_config()")
    takes = len(inspect.signature(module.get_config).parameters)
    if argument and not takes:
        raise UserError(f"--config={path}: get_config() of {name} takes no argument")
    config = module.get_config(argument) if argument else module.get_config()
    if not isinstance(config, Config):
        raise UserError(f"get_config() of {name} returned a {type(config).__name__}, not a Config")
    return config


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
    for argument in argv[1:]:
        name, _, value = argument.lstrip("-").partition("=")
        prefix, _, option = name.partition(".")
        if not argument.startswith("-") or prefix not in ("config", "noconfig"):
            continue
        if option not in known:
            raise UserError(f"there is no option --config.{option}{_nearest_option(option, known)}")
        _check_type(option, value, known[option])


def _nearest_option(option: str, known: dict[str, object]) -> str:
    """The option of that name in another section, or else the nearest whole name."""
    last = option.rpartition(".")[2]
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    return f" (did you mean {elsewhere[0]}?)" if elsewhere else nearest(option, list(known))


def _check_type(option: str, value: str, default: object) -> None:
    parse, what = _KINDS.get(type(default), (str, ""))
    try:
        parse(value or "0")  # "" is left to absl: the value may be the next argument
    except ValueError:
        raise UserError(f"--config.{option}={value}: {value!r} is not {what}") from None


_KINDS = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (flags.BooleanParser().parse, "true or false"),
}
