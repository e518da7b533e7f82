"""The encoder–decoder Transformer of "Attention Is All You Need" (Vaswani et al. 2017), in JAX.

>>> import transformer_jax as tj
>>> model = tj.load("runs/quickstart")
>>> model.translate("我有一只猫")
'I have a cat'

`train` trains a model and `evaluate` scores it; a `Config` describes an experiment, and
`load_experiment` reads one from a file. `functional` is the paper's mathematics as pure functions.
Importing this package is light: each name imports what it needs when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformer_jax import functional as functional
    from transformer_jax.config.experiment_files import load_experiment as load_experiment
    from transformer_jax.config.options import Config as Config
    from transformer_jax.config.options import DataConfig as DataConfig
    from transformer_jax.config.options import DecodeConfig as DecodeConfig
    from transformer_jax.config.options import ModelConfig as ModelConfig
    from transformer_jax.config.options import OptimizerConfig as OptimizerConfig
    from transformer_jax.config.options import ParallelConfig as ParallelConfig
    from transformer_jax.config.options import TrainConfig as TrainConfig
    from transformer_jax.errors import UserError as UserError
    from transformer_jax.inference.evaluate import evaluate as evaluate
    from transformer_jax.inference.trained import Model as Model
    from transformer_jax.inference.trained import load as load
    from transformer_jax.sweeps.points import chain as chain
    from transformer_jax.sweeps.points import grid as grid
    from transformer_jax.sweeps.points import named as named
    from transformer_jax.sweeps.points import zip_ as zip_
    from transformer_jax.training.run import train as train

__version__ = "0.1.0"

_OPTIONS = "transformer_jax.config.options"
_POINTS = "transformer_jax.sweeps.points"
_HOMES = {
    "functional": None,
    "load": "transformer_jax.inference.trained",
    "Model": "transformer_jax.inference.trained",
    "evaluate": "transformer_jax.inference.evaluate",
    "train": "transformer_jax.training.run",
    "load_experiment": "transformer_jax.config.experiment_files",
    "UserError": "transformer_jax.errors",
    **dict.fromkeys(
        ("Config", "DataConfig", "ModelConfig", "OptimizerConfig", "TrainConfig"), _OPTIONS
    ),
    **dict.fromkeys(("DecodeConfig", "ParallelConfig"), _OPTIONS),
    **dict.fromkeys(("grid", "zip_", "chain", "named"), _POINTS),
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    if home is None:
        return importlib.import_module(f"{__name__}.{name}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return __all__
