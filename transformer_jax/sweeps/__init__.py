"""The room sweeps."""
