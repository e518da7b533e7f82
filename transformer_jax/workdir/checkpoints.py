"""Checkpoints through orbax: asynchronous and atomic, each with a manifest that is verified.

The state is saved as two items, `params` and `optimizer`, so that translating reads only the first.
What the configuration determines (the hyperparameters) is not saved. A checkpoint exists once orbax
has committed it and its manifest is written.
"""

import contextlib
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PreservationPolicy,
)

from transformer_jax.console import log
from transformer_jax.errors import UserError, one_line
from transformer_jax.parallel import processes
from transformer_jax.storage import is_remote
from transformer_jax.workdir import manifest, parts
from transformer_jax.workdir.manifest import FOLDER

DAMAGED_FOLDER = "damaged"
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of what orbax has not committed


class State(Protocol):
    """What a checkpoint holds of a training state."""

    step: Any
    params: Any
    opt_state: Any

    def replace(self, **changes: Any) -> Any:
        """A copy with other values."""


StateT = TypeVar("StateT", bound=State)


class Checkpoints:
    """The checkpoints of the one run that trains in a workdir."""

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int,
        every: int = 1,
        keep_every: int = 0,
        scores: Mapping[int, float] | None = None,
        around_best: int = 0,
    ) -> None:
        """Opens the folder `checkpoints` of `workdir`; the last two checkpoints are always kept.

        Args:
          workdir: of the run.
          keep: how many regular checkpoints are kept, which are those that are averaged.
          every: a regular checkpoint's step is divisible by it, or is the last one. A run that is
            asked to stop saves others, which change no average.
          keep_every: checkpoints of steps that it divides are kept, too; 0 = none.
          scores: validation BLEU by step; the checkpoint of the highest is kept, too. May grow.
          around_best: checkpoints at most so many steps away from that one are kept, too.
        """
        self._workdir, self._folder = workdir, _folder(workdir)
        self._policies: list[PreservationPolicy] = [
            LatestN(2),  # one to fall back on
            _Chosen(lambda steps: regular(steps, every)[-keep:]),
            _Chosen(lambda steps: _near_best(steps, scores or {}, around_best)),
        ]
        if keep_every:
            self._policies.append(EveryNSteps(keep_every))
        self._manager = self._open()
        # Waits for orbax and writes the manifest in the background. Orbax's own callback is no
        # substitute: post_finalization_callback runs before the commit, which still writes files.
        self._finishing: threading.Thread | None = None
        self._saving, self._failure = 0, None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Closes. If the block raised, a failed save does not hide that: it has been logged."""
        with contextlib.suppress(*[Exception] if kind else []):
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(self._policies),
                enable_async_checkpointing=True,
            ),
            item_names=("params", "optimizer"),
        )

    def save(self, step: int, state: State) -> None:
        """Starts to save `state`, and returns once the device's copy is no longer needed.

        A failure is logged as a warning: the earlier checkpoints stay, and the run continues. Of
        several processes all stop: `wait` raises.
        """
        self.wait()
        self._saving = step
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        self._guard(lambda: self._manager.save(step, args=ocp.args.Composite(**items)))
        if self._failure is not None:
            self.wait()
            return
        self._finishing = threading.Thread(target=self._guard, args=[lambda: self._finish(step)])
        self._finishing.start()

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if processes.is_writer():
            parts.write(self._folder / str(step))
            manifest.write(self._folder / str(step))

    def _guard(self, save: Callable[[], Any]) -> None:
        try:
            save()
        except Exception as e:  # tensorstore and orbax raise classes with nothing in common
            self._failure = e
            if processes.joined():
                return  # `wait` raises it
            last = self.steps()
            log(
                f"warning: the checkpoint of step {self._saving} could not be saved "
                f"({_reason(e)}); "
                + (f"the last one is that of step {last[-1]}" if last else "there is none yet")
            )

    def wait(self) -> Exception | None:
        """Waits for the save in progress; if it failed, cleans up and returns why.

        Raises:
          UserError: if it failed, and there are several processes: the others wait for this one, so
            all of them have to stop, and to resume from the last checkpoint.
        """
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        failure, self._failure = self._failure, None
        if failure is None:
            return None
        if processes.joined():
            raise UserError(
                f"the checkpoint of step {self._saving} could not be saved: {_reason(failure)}"
            )
        with contextlib.suppress(Exception):  # the same failure
            self._manager.close()
        _remove_unfinished(self._folder)
        if not manifest.exists(self._folder / str(self._saving)):
            _remove(self._folder / str(self._saving))
        self._manager = self._open()
        return failure

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        return manifest.complete(self._folder)

    def restore(self, state: StateT) -> StateT:
        """The last saved state; `state` if there is none.

        A damaged checkpoint is named in a warning and moved to the folder `damaged` of the workdir;
        the one before it is used. Shapes, dtypes and devices of the arrays are those of `state`.

        Raises:
          UserError: if all checkpoints are damaged, or hold another model.
        """
        step = processes.agreed(_clean_up(self._folder) if processes.is_writer() else 0)
        self._manager.reload()
        return state if step < 0 else _restore_state(self._folder / str(step), state)

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: if the last checkpoint could not be saved.
        """
        failure = self.wait()
        self._manager.close()
        if failure is not None:
            raise UserError(f"the last checkpoint could not be saved: {_reason(failure)}")


def restore_before(workdir: Path, step: int, state: StateT) -> StateT:
    """The last undamaged state saved before `step`; `state` if there is none. Moves nothing."""
    earlier = [s for s in manifest.complete(_folder(workdir)) if s < step]
    found = undamaged(workdir, earlier, 1)
    return _restore_state(_folder(workdir) / str(found[0]), state) if found else state


def restore_params(workdir: Path, step: int, like: Any, sharding: jax.sharding.Sharding) -> Any:
    """The parameters saved at `step`, not verified, with the shapes of `like`.

    Raises:
      UserError: if the tokenizers or the model of `workdir` are not those they were trained with.
    """
    folder = _folder(workdir) / str(step)
    parts.check(folder)
    return _restore_item(folder, "params", like, sharding)


def stored_shapes(workdir: Path, step: int) -> Any:
    """The shapes and dtypes of the parameters saved at `step`; reads none of them."""
    folder = _folder(workdir) / str(step)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.metadata(folder / "params").item_metadata.tree
    except (ValueError, KeyError, OSError) as e:
        raise UserError(f"checkpoint {folder} cannot be read ({_reason(e)})") from None
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)


def undamaged(workdir: Path, steps: Sequence[int], number: int, *, below: str = "") -> list[int]:
    """The last `number` of `steps` without damage, ascending; logs a warning of each damaged one.

    With `below`, only damage to files whose path in the checkpoint starts with it counts.
    """
    found: list[int] = []
    for step in reversed(steps):
        if len(found) == number:
            break
        files = manifest.damaged(_folder(workdir) / str(step), below=below)
        if files:
            log(f"warning: {_damage(step, files)}; it is not used")
        else:
            found.append(step)
    return sorted(found)


def regular(steps: Sequence[int], every: int) -> list[int]:
    """Those of `steps`, which are ascending, that an average counts.

    Step 0 has the weights that a run started from.

    >>> regular([0, 4, 6, 7, 8, 9], 2)
    [4, 6, 8, 9]
    """
    return [step for step in steps if (step and step % every == 0) or step == steps[-1]]


def by_score(steps: Sequence[int], scores: Mapping[int, float]) -> list[int]:
    """Those of `steps` that have a score, from the lowest to the highest."""
    return sorted((step for step in steps if step in scores), key=lambda step: scores[step])


def _near_best(steps: Sequence[int], scores: Mapping[int, float], distance: int) -> list[int]:
    best = by_score(steps, scores)[-1:]
    return [step for step in steps if best and abs(step - best[0]) <= distance]


class _Chosen(PreservationPolicy):
    """Keeps the steps that a function chooses from all steps, which are ascending."""

    def __init__(self, choose: Callable[[Sequence[int]], Sequence[int]]) -> None:
        self._choose = choose

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether to keep each of the `checkpoints`."""
        chosen = self._choose(sorted(c.step for c in checkpoints))
        return [c.step in chosen for c in checkpoints]


def _folder(workdir: Path) -> Path:
    folder = workdir / FOLDER
    # A path in a bucket is absolute; epath would look for it in the current folder.
    return folder if is_remote(folder) else folder.absolute()


def _items(state: State) -> dict[str, Any]:
    return {
        "params": state.params,
        "optimizer": {"opt_state": state.opt_state, "step": state.step},
    }


def _restore_state(folder: Path, state: StateT) -> StateT:
    parts.check(folder)
    restored = {name: _restore_item(folder, name, like) for name, like in _items(state).items()}
    return state.replace(params=restored["params"], **restored["optimizer"])


def _restore_item(
    folder: Path, name: str, like: Any, sharding: jax.sharding.Sharding | None = None
) -> Any:
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        where = sharding or getattr(x, "sharding", None) or first
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder / name, jax.tree.map(shape, like))
    except (ValueError, KeyError) as e:
        raise UserError(f"checkpoint {folder} holds another model ({_reason(e)})") from None
    except OSError as e:
        raise UserError(f"checkpoint {folder} cannot be read ({_reason(e)})") from None


def _clean_up(folder: Path) -> int:
    """Returns the last step without damage; -1 = there is no checkpoint.

    Removes what a killed save left. Moves away checkpoints that are damaged or have no manifest.

    Raises:
      UserError: if all checkpoints are damaged, or none of several has a manifest.
    """
    if not folder.exists():
        return -1
    _remove_unfinished(folder)
    steps = sorted((int(p.name) for p in folder.iterdir() if p.name.isdigit()), reverse=True)
    # A single one was killed before its manifest was written; of several, the manifests were lost.
    damage = {s: [f"has no {manifest.NAME}"] for s in steps if not manifest.exists(folder / str(s))}
    if len(steps) == len(damage) > 1:
        raise UserError(
            f"no checkpoint in {folder} has its {manifest.NAME}: copy these files, too, or choose "
            "another --workdir"
        )
    last, unlisted = -1, len(damage)
    for step in [step for step in steps if step not in damage]:
        files = manifest.damaged(folder / str(step))
        if not files:
            last = step
            break
        damage[step] = files
    if last < 0 and len(damage) > unlisted:
        reasons = "; ".join(_damage(*item) for item in damage.items())
        raise UserError(
            f"every checkpoint in {folder} is damaged ({reasons}): restore one from a copy, or "
            "choose another --workdir"
        )
    for step, files in damage.items():
        instead = f"step {last} is used instead" if last >= 0 else "training starts from scratch"
        log(f"warning: {_damage(step, files)}; {_set_aside(folder / str(step))}, and {instead}")
    return last


def _remove_unfinished(folder: Path) -> None:
    """Removes what orbax did not commit."""
    for path in folder.iterdir() if folder.exists() else ():
        if _UNFINISHED in path.name:
            _remove(path)


def _set_aside(checkpoint: Path) -> str:
    """Moves a checkpoint away; in a bucket, where that would copy everything, removes it."""
    if is_remote(checkpoint):
        _remove(checkpoint)
        return "it has been removed"
    place = checkpoint.parent.parent / DAMAGED_FOLDER
    _remove(place / checkpoint.name)
    place.mkdir(parents=True, exist_ok=True)
    checkpoint.rename(place / checkpoint.name)
    return f"it has been moved to {place}"


def _remove(folder: Path) -> None:
    if is_remote(folder):
        if folder.exists():
            folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _damage(step: int, files: Sequence[str]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"the checkpoint of step {step} is damaged ({files[0]}{more})"


def _reason(error: Exception) -> str:
    full = "no space left" in str(error).lower() or getattr(error, "errno", None) == 28
    return "the disk is full" if full else one_line(error, 200)
