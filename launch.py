"""Launches an experiment: `python launch.py` trains the quickstart.

`python launch.py --help` lists the commands; `--mode=NAME --help` shows the flags of one.
"""

from transformer_jax.modes import command_line

if __name__ == "__main__":
    command_line.main()
