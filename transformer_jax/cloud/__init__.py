"""The room cloud."""
