"""The room workdir."""
