"""The room modes."""
