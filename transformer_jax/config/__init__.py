"""What an experiment is: its options, their ranges, config.json, and experiment files.

It may use the ground (errors, console, storage), and knows nothing of jax or of what reads the
options.
"""
