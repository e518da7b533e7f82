"""The room data.small_world."""
