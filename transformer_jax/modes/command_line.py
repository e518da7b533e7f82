"""The command line: an experiment file, overrides of its options, and one line for every mistake.

Overrides go through ml_collections' config_flags, which knows the options' types. Around it stands
what it lacks: a wrong name, type or file gives one clear line, and names the nearest right one.
"""

import os
import sys
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

from absl import app, flags
from ml_collections import config_flags

from transformer_jax import storage
from transformer_jax.config import files
from transformer_jax.config.experiment_files import (
    KINDS,
    load_experiment,
    load_point,
    nearest_option,
    overrides_in,
)
from transformer_jax.config.files import CONFIG_FILE
from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import PREEMPTED_STATUS, Preempted, UserError


def run(main: Callable[[list[str]], None], *, default_experiment: Path) -> None:
    """Defines --config, parses the flags, calls `main`; exits with status 2 on a user's mistake.

    Args:
      main: what absl's app.run would call.
      default_experiment: used when neither --config nor an existing --workdir says which.
    """
    try:
        config, argv = find_config(_with_flag_files(sys.argv), default_experiment)
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
    processes = sys.modules.get("transformer_jax.parallel.processes")
    return processes is not None and processes.joined()


def find_config(argv: list[str], default_experiment: Path) -> tuple[Config, list[str]]:
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
        return load_point(Path(given["config"]), given["sweep_index"]), rest
    if "config" in given:
        return load_experiment(Path(given["config"])), rest
    workdir = given.get("workdir", "")
    # A bucket is read where --target says, from where this machine may not reach it.
    if workdir and not (_has_target(argv) and workdir.startswith(storage.BUCKET)):
        saved = storage.path(workdir) / CONFIG_FILE
        if saved.exists():
            return files.load_config(saved), rest
    return load_experiment(default_experiment), rest


def _has_target(argv: list[str]) -> bool:
    return any(a.startswith("-") and a.lstrip("-").split("=")[0] == "target" for a in argv)


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
    known = flatten(config)
    for option, value in overrides_in(argv[1:]):
        if option not in known:
            raise UserError(f"there is no option --config.{option}{nearest_option(option, known)}")
        _check_type(option, value, known[option])


def _check_type(option: str, value: str, default: object) -> None:
    parse, what = KINDS[type(default)]
    try:
        parse(value or "0")  # "" is left to absl: the value may be the next argument
    except ValueError:
        raise UserError(f"--config.{option}={value!r} is not {what}") from None
