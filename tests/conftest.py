"""What every test shares."""

import os

# Before jax is imported. Nearly all of a tiny test's time is compiling, and this halves it; the
# subprocesses that tests start inherit it. JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests what users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
