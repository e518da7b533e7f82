"""Why jax has no devices, as a user reads it."""

import os

import jax

from transformer_jax.errors import one_line

_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_NEEDS = {
    "cuda": 'pip install "jax[cuda13]" on a machine with an NVIDIA GPU',
    "gpu": 'pip install "jax[cuda13]" on a machine with an NVIDIA GPU, and set it to cuda',
    "rocm": "install jax's plugin for AMD GPUs",
    "tpu": 'pip install "jax[tpu]" on a Cloud TPU',
}


def failure() -> str | None:
    """One line with the reason and what to do; None if jax has devices."""
    try:
        jax.devices()
    except Exception as e:  # RuntimeError, and AssertionError without a text for a lost plugin
        reason = one_line(e, 300).partition(" (set JAX_PLATFORMS=")[0]
        reason = reason or "its plugin is not installed"
        for name in (name for name in _VARIABLES if os.environ.get(name)):
            value = os.environ[name]
            other = "set it to cpu, cuda or tpu"
            needs = _NEEDS.get(value.split(",")[0].strip().lower(), other)
            return f"{name}={value}, but jax cannot start there ({reason}): {needs}, or unset it"
        return f"jax cannot start: {reason}"
    return None
