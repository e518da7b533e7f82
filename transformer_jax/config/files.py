"""config.json in a workdir: write it, read it, compare it with the options of now."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError
from transformer_jax.storage import write_whole

# In a workdir.
CONFIG_FILE = "config.json"


def differences(saved: Config, now: Config) -> list[str]:
    """["model.d_ff: 512 in the workdir, 1024 now", …] for options whose values differ."""
    before, after = flatten(saved), flatten(now)
    return [
        f"{name}: {before[name]!r} in the workdir, {value!r} now"
        for name, value in after.items()
        if before[name] != value
    ]


def refuse_differences(workdir: Path, differing: list[str]) -> None:
    """Raises UserError, naming them, if there are differences between `workdir` and now."""
    if differing:
        raise UserError(
            f"{workdir} holds another experiment ({'; '.join(differing)}): "
            "choose another --workdir, or leave --config out, and its own options are used"
        )


def save_config(config: Config, path: Path) -> None:
    """Writes `config` as JSON."""
    text = json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False)
    write_whole(path, text + "\n")


def load_config(path: Path) -> Config:
    """Reads what `save` wrote; an option that the file lacks keeps its default.

    Raises:
      UserError: if the file is missing, is not JSON, or has an option that does not exist.
    """
    try:
        if not path.is_file() and path.exists():
            raise ValueError("it is not a file")
        saved = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is not a workdir (it has no {path.name}): train there first"
        ) from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is damaged: {e}") from None
    config = Config()
    _fill(config, saved, path)
    return config


def _fill(node: Any, saved: Any, path: Path) -> None:
    if not isinstance(saved, dict):
        raise UserError(f"{path} is damaged: {saved!r} is not a group of options")
    for name, value in saved.items():
        if not hasattr(node, name):
            raise UserError(f"{path} has an option that this version lacks: {name}")
        default = getattr(node, name)
        whole = type(default) is float and type(value) is int
        if dataclasses.is_dataclass(default):
            _fill(default, value, path)
        elif type(value) is type(default) or whole:
            setattr(node, name, type(default)(value))
        else:
            raise UserError(f"{path} is damaged: {name}={value!r} is not {_A[type(default)]}")


_A = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
