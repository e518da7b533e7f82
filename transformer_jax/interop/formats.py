"""The formats by name, as `--mode=import` and `--mode=export` call them."""

from pathlib import Path

from transformer_jax.errors import UserError
from transformer_jax.inference.trained import Model
from transformer_jax.interop.ctranslate2 import export_ctranslate2
from transformer_jax.interop.marian import export_marian, import_marian
from transformer_jax.interop.safetensors import export_safetensors


def import_model(form: str | None, source: Path, workdir: Path) -> None:
    """Makes a workdir of a model in another program's format.

    Raises:
      UserError: if the format cannot be imported, or the model is not in it.
    """
    if form != "marian":
        raise UserError(f"--mode=import takes --format=marian{f', not {form}' if form else ''}")
    import_marian(source, workdir)


def export_model(form: str | None, trained: Model, output: Path, quantization: str) -> None:
    """Writes a trained model in another program's format.

    Raises:
      UserError: if the model cannot be exported to that format.
    """
    if form is None:
        raise UserError("--mode=export takes --format=marian, ctranslate2 or safetensors")
    if quantization and form != "ctranslate2":
        raise UserError(f"--quantization={quantization} is only for --format=ctranslate2")
    model = trained.config, trained.params, trained.tokenizers, output
    if form == "ctranslate2":
        export_ctranslate2(*model, quantization=quantization)
    elif form == "safetensors":
        export_safetensors(*model)
    else:
        export_marian(*model)
