"""A profiler trace of a few training steps."""

from collections.abc import Callable
from typing import Any

import jax

from transformer_jax.console import log

_TRACE_AFTER, _TRACED = 10, 5
PROFILED_CALLS = _TRACE_AFTER + _TRACED


def profiled(step: Callable[..., Any], folder: str) -> Any:
    """Wraps `step` so that `folder` gets a jax profiler trace of a few calls.

    The trace begins once everything is compiled, and is written after `PROFILED_CALLS` calls.
    """
    calls = 0

    def traced(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == _TRACE_AFTER:
            jax.profiler.start_trace(folder)
        result = step(*arguments)
        if calls == PROFILED_CALLS:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            log(f"a trace of {_TRACED} steps is in {folder}")
        return result

    return traced
