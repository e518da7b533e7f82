"""What every format requires before it writes: its library, finite weights, an empty folder."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from transformer_jax.config.options import Config, DecodeConfig
from transformer_jax.console import log
from transformer_jax.errors import UserError


def require_package(module: str) -> ModuleType:
    """Imports a module that only import and export need.

    Raises:
      UserError: if its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        package = module.partition(".")[0]
        if e.name != package:  # the package is installed, but lacks a dependency
            raise
        raise UserError(f"this needs {package}: pip install {package}") from None


def require_finite(params: Any) -> None:
    """Raises UserError, naming the parameter, if a weight is NaN or infinite."""
    for path, weight in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(weight).all():
            name = "/".join(key.key for key in path)
            raise UserError(f"{name} has values that are not finite: the training diverged")


def log_lost(config: Config, names: Sequence[str], form: str) -> None:
    """Logs one line that names those of the `decode` options `names` that are not at their default.

    They are what the format called `form` cannot store, so that translations there may differ.
    """
    plain = DecodeConfig()
    lost = [
        f"decode.{name}={value!r}"
        for name in names
        if (value := getattr(config.decode, name)) != getattr(plain, name)
    ]
    if lost:
        log(
            f"{form} does not store these options, and translations differ unless it is given the "
            f"same: {', '.join(lost)}"
        )


def require_empty(folder: Path, option: str) -> None:
    """Raises UserError, naming the option that chose it, if `folder` contains anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: choose another {option}")
