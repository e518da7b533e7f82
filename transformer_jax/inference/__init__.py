"""The room inference."""
