"""What a run that starts from the weights of another has of its configuration."""

import copy
from collections.abc import Collection
from pathlib import Path

from transformer_jax import storage
from transformer_jax.config.checks import check_config
from transformer_jax.config.files import CONFIG_FILE, differences, load_config
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import OPTIONS, Config, flatten, set_option
from transformer_jax.console import log
from transformer_jax.errors import UserError
from transformer_jax.workdir import manifest


def parent_of(config: Config) -> Path | None:
    """The workdir that train.start_from names."""
    return storage.path(config.train.start_from) if config.train.start_from else None


def inherit(config: Config, workdir: Path, given: Collection[str] = ()) -> Config:
    """`config` with the architecture and the vocabulary of the run that it starts from, if any.

    They replace those of `config`, with a line in the log. Once the run has begun they are in its
    own config.json, and the run that it started from may be gone.

    Args:
      config: the experiment.
      workdir: of the new run.
      given: names of options that the user has set and expects to hold.

    Raises:
      UserError: if train.start_from is no trained workdir, or `given` options disagree with it.
    """
    parent, begun = parent_of(config), (workdir / CONFIG_FILE).exists()
    if parent is None:
        return config
    if storage.absolute(str(parent)) == storage.absolute(str(workdir)):
        raise UserError(
            f"train.start_from={parent} is the --workdir itself: choose a new --workdir, which "
            "begins with its weights"
        )
    storage.check_workdir(parent)
    saved = load_config((workdir if begun else parent) / CONFIG_FILE)
    if begun:
        _check_same(parent, workdir)
    elif not manifest.complete(parent / manifest.FOLDER):
        raise UserError(f"train.start_from={parent} has no checkpoint: train there first")
    fixed = [name for name, known in OPTIONS.items() if known.may_change == Change.NEVER]
    then, now = ({name: flatten(c)[name] for name in fixed} for c in (saved, config))
    differing = differences(then, now)
    wrong = [f"{n}={now[n]!r} (it has {then[n]!r})" for n in differing if n in given]
    if wrong:
        raise UserError(
            f"the model of {parent} (train.start_from) does not fit {', '.join(wrong)}: leave "
            f"{'these options' if len(wrong) > 1 else 'this option'} out"
        )
    found = copy.deepcopy(config)
    for name, (value, _) in differing.items():
        set_option(found, name, value)
    if differing and not begun:
        values = ", ".join(f"{name}={value!r}" for name, (value, _) in differing.items())
        log(f"the model and its vocabulary are those of {parent}: {values}")
    return check_config(found)


def _check_same(parent: Path, workdir: Path) -> None:
    """Refuses a `parent` with other checkpoints than those that the run in `workdir` began with."""
    from transformer_jax.workdir import card  # imports jax, which --help has no need of

    known = (card.read(workdir) or {}).get("parent") or {}
    for step, digest in known.get("checkpoints", {}).items():
        path = parent / manifest.FOLDER / step / manifest.NAME
        if path.exists() and manifest.sha256(path)[:16] != digest:
            raise UserError(
                f"train.start_from={parent} is not the run that {workdir} began with, "
                f"{known['workdir']}: leave it as it was, or choose another --workdir"
            )
