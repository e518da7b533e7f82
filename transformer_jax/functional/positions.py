"""Position encodings: Vaswani et al. 2017, section 3.5."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


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
    angles = positions[..., None] * _frequencies(d_model)
    return _lay_out(jnp.sin(angles), jnp.cos(angles), layout)


def position_rotation(offset: ArrayLike, d_model: int, *, layout: str = "interleaved") -> Array:
    """R(k) with PE(pos + k) = R(k) · PE(pos) for every pos, so that attention can look k ahead.

    Section 3.5: "for any fixed offset k, PE(pos+k) can be represented as a linear function of
    PE(pos)". By the addition theorems it turns each pair (sin, cos) by the angle that k steps are
    at the pair's frequency, so it is orthogonal, and R(j) R(k) = R(j + k).

    Args:
      offset: k, any whole number.
      d_model: even width D.
      layout: as in `sinusoidal_positions`.

    Returns:
      float32 [D, D].

    Raises:
      ValueError: as `sinusoidal_positions`.
    """
    angles = offset * _frequencies(d_model)
    sin, cos = jnp.diag(jnp.sin(angles)), jnp.diag(jnp.cos(angles))
    # Rows of a sine, then of a cosine; the columns of each are laid out as its encoding is.
    return _lay_out(_lay_out(cos, sin, layout).T, _lay_out(-sin, cos, layout).T, layout).T


def _frequencies(d_model: int) -> Array:
    """10000^(-2i/d_model), float32 [D/2]."""
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even width, not d_model={d_model}")
    return 10_000.0 ** (-jnp.arange(0, d_model, 2) / d_model)


def _lay_out(sin: Array, cos: Array, layout: str) -> Array:
    """Two [..., D/2], what belongs to sines and to cosines → [..., D]."""
    if layout == "interleaved":
        return jnp.stack([sin, cos], axis=-1).reshape(*sin.shape[:-1], 2 * sin.shape[-1])
    if layout == "halves":
        return jnp.concatenate([sin, cos], axis=-1)
    raise ValueError(f"sinusoid layout {layout!r} is none of: interleaved, halves")
