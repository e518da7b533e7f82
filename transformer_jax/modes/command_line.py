"""The command line: a mode, an experiment, overrides of its options; a mistake is one line.

Overrides go through ml_collections' config_flags, which knows the options' types. This file adds
what that lacks: a wrong name, type or file gives a one-line error that names the nearest right one.
"""

import gc
import importlib
import io
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from absl import flags
from ml_collections import config_flags

from transformer_jax import __version__, storage
from transformer_jax.config.checks import check_config
from transformer_jax.config.experiment_files import (
    check_overrides,
    experiments_folder,
    load_experiment,
    load_point,
    overrides_in,
)
from transformer_jax.config.files import CONFIG_FILE, OtherExperimentError, load_config
from transformer_jax.config.options import Config
from transformer_jax.errors import PREEMPTED_STATUS, Preempted, UserError, nearest, one_line
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch, flag_name, silence_libraries

# In the order in which `--help` lists them.
MODES = (
    *("train", "evaluate", "translate", "inside", "score", "compare", "describe", "plan", "sweep"),
    *("report", "import", "export", "replay", "verify_resume"),
)
_MISTAKE = 2  # the exit status
# New objects before Python looks for cycles; its default, 700, takes an eighth of a start's time.
_GARBAGE = 100_000
_HELP = ("help", "helpshort", "helpfull", "h", "?")
# They are read before the flags are parsed.
_EARLY = ("mode", "config", "workdir", "sweep_index")


def main(argv: Sequence[str] | None = None, *, default_experiment: Path | None = None) -> NoReturn:
    """Runs the mode that the command line names, and exits: with 2 on a user's mistake.

    Args:
      argv: the program's name and its arguments; None = those of this process.
      default_experiment: the file to use when neither --config nor a --workdir that exists names an
        experiment; None = the quickstart.
    """
    gc.set_threshold(_GARBAGE)
    _speak_utf8()
    try:
        default = default_experiment or experiments_folder() / "quickstart.py"
        sys.exit(run(list(sys.argv if argv is None else argv), default))
    except UserError as e:
        _stop(f"error: {one_line(e)}", _MISTAKE)  # what it quotes may hold anything
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as e:  # a full disk, a file of another user
        _stop(f"error: {e.filename or 'input or output'}: {e.strerror or e}", _MISTAKE)
    except Preempted as e:
        _stop(f"stopped on request: {e}; run the same command to resume", PREEMPTED_STATUS)
    except KeyboardInterrupt:
        _stop("\ninterrupted", 130)
    except Exception:
        if failure := _start_failure():
            _stop(f"error: {failure}", _MISTAKE)
        if not _joined():
            raise
        _stop(
            f"{traceback.format_exc()}\nerror: this process of several stopped. If it did because "
            "another one ended, the output of that one has the reason; run the same command to "
            "resume from the workdir",
            1,
        )


def _speak_utf8() -> None:
    """Makes the standard streams UTF-8 whatever the locale: files are, and what is piped, too."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # and not what a test or a notebook put there
            errors = "surrogateescape" if stream is sys.stdin else "backslashreplace"
            stream.reconfigure(encoding="utf-8", errors=errors)


def load_mode(name: str) -> ModuleType:
    """The module of a mode.

    Raises:
      UserError: if there is no such mode.
    """
    if name not in MODES:
        raise UserError(f"--mode={name} is none of: {', '.join(MODES)}{nearest(name, MODES)}")
    module = "import_" if name == "import" else name  # a keyword of Python
    return importlib.import_module(f"transformer_jax.modes.{module}")


def define_flags(mode: str) -> flags.FlagValues:
    """The flags of a mode, not parsed yet."""
    found = Flags()
    load_mode(mode).define(found)
    return found.values


def overview() -> str:
    """What plain --help prints: the modes, with a sentence each."""
    width = max(map(len, MODES)) + len("--mode=")
    lines = [f"  {'--mode=' + name:{width}}  {_summary(name)}" for name in MODES]
    return "\n".join(
        [
            'The encoder-decoder Transformer of "Attention Is All You Need", in JAX '
            f"(version {__version__}).",
            "",
            *lines,
            "",
            "--mode=NAME --help shows the flags of a mode; without --mode, it is train.",
            "--config=FILE.py names an experiment; --config.SECTION.OPTION=VALUE sets an option.",
        ]
    )


def help_of(mode: str, program: str = "launch.py") -> str:
    """What --mode=NAME --help prints: what the mode does, and its flags."""
    values = define_flags(mode)
    about = (load_mode(mode).__doc__ or "").strip().replace("launch.py", program)
    lines = [about, "", "Flags:"]
    lines.append(
        "  --config=FILE.py\n      Experiment file (default: that of --workdir, or the quickstart)."
    )
    lines.append(
        "  --config.SECTION.OPTION=VALUE\n      Option of the experiment (docs/options.md)."
    )
    for name in values:
        if name != "mode":
            flag = values[name]
            default = "" if flag.default in (None, "", [], False) else f" Default: {flag.default}."
            choices = getattr(flag.parser, "enum_values", None)
            value = "" if flag.boolean else f"={'|'.join(choices) if choices else 'VALUE'}"
            text = flag.help.partition(">: ")[2] if choices else flag.help  # absl lists them, too
            lines.append(f"  --{name}{value}\n      {text}{default}")
    return "\n".join(lines)


def _summary(mode: str) -> str:
    return (load_mode(mode).__doc__ or "").strip().partition("\n")[0]


def run(argv: list[str], default_experiment: Path) -> int:
    """Runs the mode and returns its exit status; raises the errors that `main` reports."""
    arguments = _with_flag_files(argv)
    _check_equals_signs(arguments)
    named = [a.partition("=")[2] for a in arguments if flag_name(a) == "mode" and "=" in a]
    mode = named[-1] if named else "train"
    module = load_mode(mode)
    if any(a.startswith("-") and a.lstrip("-") in _HELP for a in arguments):
        print(help_of(mode, _program(argv[0])) if named else overview())
        return 0
    config, rest = find_config(arguments, default_experiment)
    # First, because config_flags answers an unknown option with a KeyError.
    check_overrides(rest)
    values = define_flags(mode)
    config_flags.DEFINE_config_dataclass("config", config, sys_argv=rest, flag_values=values)
    unexpected = _parse(values, [argv[0], *rest], mode)
    if unexpected:
        near = f"; did you mean --mode={unexpected[0]}?" if unexpected[0] in MODES else ""
        raise UserError(f"unexpected argument {unexpected[0]!r}{near}")
    os.environ.update(getattr(module, "BEFORE_JAX", {}))
    silence_libraries()
    files = [a.partition("=")[2] for a in arguments if flag_name(a) == "config"]
    launch = Launch(
        mode=mode,
        config=check_config(values["config"].value),
        flags=values,
        arguments=tuple(arguments),
        experiment=Path(files[-1]) if files else None,
        program=_program(argv[0]),
    )
    try:
        return module.run(launch)
    except OtherExperimentError as e:
        own = {name for name, _ in overrides_in(arguments)} & e.options
        given = sorted(f"--config.{name}" for name in own)
        given = ["--config", *given] if files and own != e.options else given
        leave = f", or leave out {', '.join(given)} to use the workdir's own options"
        raise UserError(f"{e}{leave if given else ''}") from None


def _parse(values: flags.FlagValues, argv: list[str], mode: str) -> list[str]:
    """The arguments that are no flags."""
    try:
        return values(argv)[1:]
    except flags.UnrecognizedFlagError as e:
        names = {e.flagname, e.flagname.removeprefix("no")}
        owners = [other for other in MODES if names & set(define_flags(other))]
        if owners:
            raise UserError(
                f"--{e.flagname} belongs to --mode={', '.join(owners)}, not {mode}"
            ) from None
        raise UserError(one_line(e)) from None
    except flags.Error as e:
        raise UserError(one_line(e)) from None


def _stop(message: str, status: int) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    # An orderly exit waits for the other processes, which may wait for this one; an immediate one
    # makes them stop, too. A process that was asked to stop may be compiling, and taking Python
    # down around a thread of XLA has crashed.
    if _joined() or status == PREEMPTED_STATUS:
        if status == _MISTAKE:
            from transformer_jax.parallel import processes

            processes.let_others_leave()
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def _start_failure() -> str | None:
    """Why jax has no devices, if that is what went wrong; without importing jax to find out."""
    if "jax" not in sys.modules:
        return None
    from transformer_jax.parallel import start

    return start.failure()


def _joined() -> bool:
    """Whether this is one of several processes, without importing jax to find out."""
    processes = sys.modules.get("transformer_jax.parallel.processes")
    return processes is not None and processes.joined()


def find_config(arguments: Sequence[str], default_experiment: Path) -> tuple[Config, list[str]]:
    """The configuration that `arguments` name, and `arguments` without --config=FILE.

    It comes from --config=FILE.py, or else from the workdir, or else it is the default experiment.
    --sweep_index=i makes it the i-th point of that file's sweep().
    """
    flagged = [a.lstrip("-").partition("=") for a in arguments if a.startswith("-")]
    given = {name: value for name, _, value in flagged if name in _EARLY}
    rest = [a for a in arguments if not a.startswith("-") or flag_name(a) != "config"]
    if "sweep_index" in given:
        if "config" not in given:
            raise UserError("--sweep_index needs --config=FILE.py, whose sweep() it picks from")
        return load_point(Path(given["config"]), given["sweep_index"]), rest
    if "config" in given:
        return load_experiment(given["config"]), rest
    workdir = given.get("workdir", "")
    # With --target a bucket is read elsewhere, and this machine may not reach it.
    elsewhere = any(flag_name(a) == "target" for a in arguments)
    if workdir and not (elsewhere and workdir.startswith(storage.BUCKET)):
        saved = storage.path(workdir) / CONFIG_FILE
        if saved.exists():
            return load_config(saved), rest
    return load_experiment(default_experiment), rest


def _check_equals_signs(arguments: Sequence[str]) -> None:
    for argument, value in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument.startswith("-") and argument.lstrip("-") in _EARLY:
            raise UserError(f"write --{argument.lstrip('-')}={value or '…'}, with an equals sign")


def _program(script: str) -> str:
    """What a user types to start the launcher, given the first word of the command line."""
    name = Path(script).name
    return {"launch.py": "python launch.py", "__main__.py": "python -m transformer_jax"}.get(
        name, name
    )


def _with_flag_files(argv: list[str]) -> list[str]:
    """The arguments, with the content of --flagfile=FILE in its place."""
    try:
        return list(flags.FLAGS.read_flags_from_files(argv[1:]))
    except flags.Error as e:
        raise UserError(one_line(e).removeprefix("ERROR:: ")) from None
