"""Launches an experiment: `python launch.py` trains the quickstart.

`python launch.py --help` lists the commands; `--mode=NAME --help` shows the flags of one.
"""

from transformer_jax.__main__ import main

if __name__ == "__main__":
    main()
