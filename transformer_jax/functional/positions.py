"""Position encodings: Vaswani et al. 2017, section 3.5."""

import jax.numpy as jnp
from jax import Array


def sinusoidal_positions(positions: Array, d_model: int, *, layout: str = "interleaved") -> Array:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos(the same).

    Computed for any position, so there is no longest sentence.

    Args:
      positions: int [...], from 0.
      d_model: even width D.
      layout: "interleaved" as in the paper's formula; "halves", sines first, then cosines (Marian;
        Tensor2Tensor's own code, whose frequencies differ a little, does so too).

    Returns:
      float32 [..., D].

    Raises:
      ValueError: for an odd width or an unknown layout.
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even width, not d_model={d_model}")
    frequencies = 10_000.0 ** (-jnp.arange(0, d_model, 2) / d_model)
    angles = positions[..., None] * frequencies
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    if layout == "interleaved":
        return jnp.stack([sin, cos], axis=-1).reshape(*positions.shape, d_model)
    if layout == "halves":
        return jnp.concatenate([sin, cos], axis=-1)
    raise ValueError(f"sinusoid layout {layout!r} is none of: interleaved, halves")
