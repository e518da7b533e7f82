"""Other processes of this machine. This imports no jax: a launcher of many runs asks it."""

import os
from typing import Any


def alive(pid: Any) -> bool:
    """Whether there is a process of that number; not if it is none."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True
