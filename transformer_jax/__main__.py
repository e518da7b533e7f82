"""The launcher: `python -m transformer_jax`, `transformer-jax`, and launch.py of a checkout."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line. Ctrl-C has no traceback, not even while the package is imported."""
    try:
        from transformer_jax.modes import command_line
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    command_line.main()


if __name__ == "__main__":
    main()
