"""config.json in a workdir: writing it, reading it, and comparing it with other options."""

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformer_jax import storage
from transformer_jax.config import texts
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import OPTIONS, Config, flatten, set_option
from transformer_jax.errors import UserError
from transformer_jax.storage import write_whole

# In a workdir.
CONFIG_FILE = "config.json"

Differences = dict[str, tuple[Any, Any]]


def differences(
    saved: Mapping[str, Any], now: Mapping[str, Any], moment: Change | None = None
) -> Differences:
    """{"model.d_ff": (512, 1024), …}: options, flattened, whose values differ, as (then, now).

    Args:
      saved: as `now`; what it lacks has its default, as when it was saved.
      now: by dotted name.
      moment: leaves out the options that may change at this moment; None = at no moment.
    """
    pairs = {name: (saved.get(name, OPTIONS[name].default), value) for name, value in now.items()}
    return {
        name: (then, value)
        for name, (then, value) in pairs.items()
        if then != value and not (moment is not None and OPTIONS[name].allows(then, value, moment))
    }


def in_words(differing: Differences, then: str = "in the workdir") -> str:
    """ "model.d_ff: 512 in the workdir, 1024 now; …"."""
    return "; ".join(f"{name}: {a!r} {then}, {b!r} now" for name, (a, b) in differing.items())


class OtherExperimentError(UserError):
    """A workdir holds another experiment; `options` are those that differ, by dotted name."""

    def __init__(self, workdir: Path, differing: Differences) -> None:
        self.options = set(differing)
        super().__init__(
            f"{workdir} holds another experiment ({in_words(differing)}): choose another --workdir"
        )


def refuse_differences(workdir: Path, differing: Differences) -> None:
    """Raises OtherExperimentError if there are differences between `workdir` and now."""
    if differing:
        raise OtherExperimentError(workdir, differing)


def save_config(config: Config, path: Path) -> None:
    """Writes `config` as JSON, with absolute paths: the run is read from any folder."""
    config = with_absolute_paths(config)
    text = json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False)
    write_whole(path, text + "\n")


def with_absolute_paths(config: Config) -> Config:
    """A copy of `config` whose paths are absolute, except for those that start from data.path."""
    found = copy.deepcopy(config)
    for name, value in flatten(config).items():
        if OPTIONS[name].is_path:
            set_option(found, name, storage.absolute(value))
        elif OPTIONS[name].are_paths and value and config.data.corpus == "files":
            set_option(found, name, texts.with_paths(value, partial(_absolute, config.data.path)))
    return found


def _absolute(folder: str, name: str) -> str:
    return name if folder and not name.startswith("~") else storage.absolute(name)


def load_config(path: Path) -> Config:
    """Reads what `save_config` wrote; an option that the file lacks gets its default.

    Raises:
      UserError: if the file is missing, is not JSON, or has an option that does not exist.
    """
    try:
        if not path.is_file() and path.exists():
            raise ValueError("it is not a file")
        saved = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} is not a workdir (it has no {path.name}): train there first"
        ) from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is damaged: {e}") from None
    config = Config()
    for name, value in saved.items():
        if name not in OPTIONS:
            raise UserError(f"{path} has an option that this version lacks: {name}")
        try:
            set_option(config, name, value)
        except UserError as e:
            raise UserError(f"{path} is damaged: {e}") from None
    return config


def _leaves(saved: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(saved, dict):
        raise ValueError(f"{saved!r} is not a group of options")
    for name, value in saved.items():
        if isinstance(value, dict) and prefix + name not in OPTIONS:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
