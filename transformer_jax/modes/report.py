"""Write a page about a run, a sweep, or a folder of runs: report.html and report.md in it.

Example:
    launch.py --mode=report --workdir=runs/table3
"""

from pathlib import Path

from transformer_jax.config import experiment_files
from transformer_jax.errors import UserError
from transformer_jax.modes.flags import Flags
from transformer_jax.modes.launch import Launch

BEFORE_JAX = {"JAX_PLATFORMS": "cpu"}  # the devices may be in use


def define(flags: Flags) -> None:
    """Defines no flags of its own."""


def run(launch: Launch) -> int:
    """Writes the report and prints where it is."""
    try:
        from transformer_jax.report import page, runs
    except ModuleNotFoundError as e:
        raise UserError(
            f"--mode=report needs {e.name}: pip install 'transformer_jax[report]'"
        ) from None
    folder, named = launch.workdir, launch.experiment
    contents = runs.read(folder, launch.config if named else None)
    file = named or _own_experiment(contents.experiment)
    page.write(contents, folder, experiment_files.load_paper(file) if file else None)
    print(f"{folder / page.HTML}\n{folder / page.MARKDOWN}")
    return 0


def _own_experiment(name: str) -> Path | None:
    """The experiment file that a sweep's folder names, if it is one of this project's.

    Any other file is run only if --config names it: the folder may come from elsewhere.
    """
    written, colon, argument = name.partition(":")
    file = experiment_files.experiments_folder() / Path(written).name
    ours = Path(written).parent.name == "experiments" and file.is_file()
    return Path(f"{file}{colon}{argument}") if ours else None
