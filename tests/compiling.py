"""Where the tests keep compiled programs, which would otherwise take half of their time."""

import os
import shutil
from pathlib import Path

from transformer_jax.parallel import compilation_cache


def use_cache():
    """Has jax keep what the tests compile apart from what users do, for all checkouts."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    compilation_cache.use(f"{user}/transformer_jax_tests", most_bytes=400_000_000)


def own_cache(folder):
    """Variables for processes that get killed, perhaps while they write an entry of the cache."""
    shared = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not shared:
        return {}
    copy = folder / "compiled"
    if not copy.exists():
        shutil.copytree(shared, copy, copy_function=os.symlink)  # no entry is ever rewritten
    return {"JAX_COMPILATION_CACHE_DIR": str(copy)}
