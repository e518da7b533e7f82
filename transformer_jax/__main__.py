"""`python -m transformer_jax`: the launcher."""

from transformer_jax.modes import command_line

if __name__ == "__main__":
    command_line.main()
