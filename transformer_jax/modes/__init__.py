"""The commands: `--mode=NAME` runs modes/NAME.py, which owns its flags, its help and its output.

A mode is a thin client of the rooms below: what a flag can do, a line of Python can. It defines its
flags in `define(flags)`, and `run(launch)` does the work and returns the exit status. Whatever
needs jax is imported inside `run`: a mistake on the command line should not wait for it.
"""
