"""The room parallel."""
