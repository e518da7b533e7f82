"""Models from and for other libraries: each is one module here, and imports its library itself."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from transformer_jax.errors import UserError

if TYPE_CHECKING:  # for its name alone: imports run downward
    from transformer_jax.inference.trained import Trained


def require(module: str) -> ModuleType:
    """Imports `module`, which only import and export need.

    Raises:
      UserError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        package = module.partition(".")[0]
        if e.name != package:  # It is there, and lacks something of its own.
            raise
        raise UserError(f"this needs {package}: pip install {package}") from None


SIDES = ("source", "target")


def refuse_not_finite(params: Any) -> None:
    """Raises UserError, naming the parameter, if a weight is NaN or infinite."""
    for path, weight in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(weight).all():
            name = "/".join(key.key for key in path)
            raise UserError(f"{name} has values that are not finite: the training diverged")


def refuse_used(folder: Path, option: str) -> None:
    """Raises UserError, naming the option that chose it, if something is in `folder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: choose another {option}")


def import_model(form: str | None, source: Path, workdir: Path) -> None:
    """What `--mode=import` does: makes a workdir of a model in another program's format."""
    if form != "marian":
        raise UserError(f"--mode=import takes --format=marian{f', not {form}' if form else ''}")
    from transformer_jax.interop import marian

    marian.import_marian(source, workdir)


def export_model(form: str | None, trained: "Trained", output: Path, quantization: str) -> None:
    """What `--mode=export` does: writes a trained model in another program's format."""
    if form is None:
        raise UserError("--mode=export takes --format=marian, ctranslate2 or safetensors")
    if quantization and form != "ctranslate2":
        raise UserError(f"--quantization={quantization} goes with --format=ctranslate2 alone")
    model = trained.config, trained.params[0], trained.tokenizers, output
    if form == "ctranslate2":
        from transformer_jax.interop.ctranslate2 import export_ctranslate2

        export_ctranslate2(*model, quantization=quantization)
    elif form == "safetensors":
        from transformer_jax.interop.safetensors import export_safetensors

        export_safetensors(*model)
    else:
        from transformer_jax.interop.marian import export_marian

        export_marian(*model)
