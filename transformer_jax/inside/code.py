"""The functions of this project that compute what each figure shows, for a reader to open."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformer_jax.functional import attention, layers, losses, masks, positions
from transformer_jax.inference import search
from transformer_jax.model import layers as modules
from transformer_jax.model import transformer

_PACKAGE = Path(inspect.getfile(attention)).parents[1]
# By the id of a figure, in page/.
_FIGURES: dict[str, tuple[Callable[..., Any], ...]] = {
    "overview": (transformer.EncoderLayer.__call__, transformer.DecoderLayer.__call__),
    "embedding": (layers.embed, positions.sinusoidal_positions, positions.position_rotation),
    "attention": (
        attention.split_heads,
        attention.scaled_dot_product_attention,
        attention.attention_weights,
    ),
    "heads": (modules.Attention.attend, attention.merge_heads),
    "layers": (modules.Residual.after, layers.layer_norm, layers.feed_forward),
    "decoder": (
        masks.causal_mask,
        transformer.Transformer.decode,
        losses.label_smoothed_cross_entropy,
    ),
    "search": (layers.logits, search.beam_step, search.length_normalizer),
}


def excerpts() -> dict[str, list[dict[str, Any]]]:
    """For each figure, its functions: file, first line, name and text."""
    return {figure: [_excerpt(f) for f in functions] for figure, functions in _FIGURES.items()}


def _excerpt(function: Callable[..., Any]) -> dict[str, Any]:
    function = inspect.unwrap(function)  # linen wraps methods
    lines, first = inspect.getsourcelines(function)
    file = Path(inspect.getfile(function)).relative_to(_PACKAGE.parent)
    text = inspect.cleandoc("".join(lines))
    return {
        "file": file.as_posix(),
        "line": first,
        "name": function.__qualname__,
        "text": text,
    }
