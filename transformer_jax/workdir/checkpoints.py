"""Checkpoints through orbax: asynchronous and atomic, each with a manifest that is checked.

The state is saved as two items, `params` and `optimizer`, so that translating reads the first
alone. What the configuration gives (the hyperparameters) is not saved. A checkpoint exists once
orbax has committed it and its manifest is written.
"""

import contextlib
import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PreservationPolicy,
)

from transformer_jax.console import log
from transformer_jax.errors import UserError
from transformer_jax.parallel import processes
from transformer_jax.storage import is_remote
from transformer_jax.workdir import manifest
from transformer_jax.workdir.manifest import FOLDER

if TYPE_CHECKING:  # for its name alone: imports run downward
    from transformer_jax.training.step import TrainState

DAMAGED_FOLDER = "damaged"
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of what orbax has not committed


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int,
        every: int = 1,
        keep_every: int = 0,
        scores: Mapping[int, float] | None = None,
    ) -> None:
        """Opens them.

        Args:
          workdir: in it they are in `checkpoints`.
          keep: how many of the last regular ones are averaged; they are kept. So are the last two
            of all: one to fall back on.
          every: a regular checkpoint's step is divided by it, or is the last. A run that is asked
            to stop saves others, which change no average.
          keep_every: those of steps that it divides are kept too; 0 = none.
          scores: validation BLEU by step, the highest of which is kept too; may grow.
        """
        self._keep, self._scores = keep, {} if scores is None else scores
        folder = workdir / FOLDER
        # What is in a bucket has no other name, and epath would look for it in the folder here.
        self._folder = folder if is_remote(folder) else folder.absolute()
        self._every, self._keep_every = every, keep_every
        self._manager = self._open()
        # Commits and lists in the background what `save` began.
        self._finishing: threading.Thread | None = None
        self._saving, self._failure = 0, None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Closes; of a failure that is not what the block ended with, the warning was enough."""
        with contextlib.suppress(*[Exception] if kind else []):
            self.close()

    def _open(self) -> ocp.CheckpointManager:
        policies: list[PreservationPolicy] = [
            LatestN(2),
            _Chosen(lambda steps: regular(steps, self._every)[-self._keep :]),
            _Chosen(lambda steps: by_score(steps, self._scores)[-1:]),
        ]
        if self._keep_every:
            policies.append(EveryNSteps(self._keep_every))
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(policies),
                enable_async_checkpointing=True,
            ),
            item_names=("params", "optimizer"),
        )

    def save(self, step: int, state: "TrainState") -> None:
        """Starts to save `state`, and returns when the device's copy is no longer needed.

        If it cannot be written, a warning says so, the earlier ones stay, and the run lives on; of
        several processes all stop, by what `wait` raises.
        """
        self.wait()
        self._saving = step
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            optimizer=ocp.args.StandardSave({"opt_state": state.opt_state, "step": state.step}),
        )
        self._guarded(lambda: self._manager.save(step, args=args))
        if self._failure is not None:
            self.wait()
            return
        self._finishing = threading.Thread(target=self._guarded, args=[lambda: self._finish(step)])
        self._finishing.start()

    def _finish(self, step: int) -> None:
        self._manager.wait_until_finished()
        if processes.is_writer():
            manifest.write(self._folder / str(step))

    def _guarded(self, save: Callable[[], Any]) -> None:
        try:
            save()
        except Exception as e:  # tensorstore's and orbax's have no class in common with OSError
            self._failure = e
            if processes.joined():
                return  # `wait` raises it
            last = self.steps()
            log(
                f"warning: the checkpoint of step {self._saving} could not be saved "
                f"({_reason(e)}); "
                + (f"that of step {last[-1]} is the last" if last else "there is none yet")
            )

    def wait(self) -> Exception | None:
        """Waits for what was begun; clears away what failed of it, and returns why.

        Raises:
          UserError: if it failed, and there are several processes: the others wait for this one, so
            that all have to stop, and to go on from the last one.
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
        with contextlib.suppress(Exception):  # it tells of the same failure again
            self._manager.close()
        self._remove_unfinished()
        if not manifest.exists(self._folder / str(self._saving)):
            _remove(self._folder / str(self._saving))
        self._manager = self._open()
        return failure

    def _remove_unfinished(self) -> None:
        """Removes what orbax did not commit. For the one run that trains here."""
        for path in self._folder.iterdir() if self._folder.exists() else ():
            if _UNFINISHED in path.name:
                _remove(path)

    def _set_aside_unlisted(self) -> None:
        """Moves away what has no manifest: killed before it was written, or when it was removed.

        Raises:
          UserError: if it is not that: several have none, and no checkpoint has one.
        """
        names = [path.name for path in self._folder.iterdir() if path.name.isdigit()]
        unlisted = [n for n in sorted(names, key=int) if not manifest.exists(self._folder / n)]
        if len(unlisted) > 1 and len(unlisted) == len(names):
            raise UserError(
                f"no checkpoint in {self._folder} has its {manifest.NAME}: copy these files, too, "
                "or choose another --workdir"
            )
        for name in unlisted:
            done = self._set_aside(int(name))
            log(f"warning: the checkpoint of step {name} has no {manifest.NAME}; it is {done}")

    def _set_aside(self, step: int) -> str:
        return _set_aside(self._folder / str(step), self._folder.parent / DAMAGED_FOLDER)

    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint, ascending."""
        return manifest.complete(self._folder)

    def restore(self, state: "TrainState") -> "TrainState":
        """The last saved state; `state` when there is none. For the one run that trains here.

        A damaged checkpoint is named, and moved to the folder `damaged` of the workdir; the one
        before it serves. Shapes, dtypes, and the devices that each array is on, are as in `state`.

        Raises:
          UserError: if all of them are damaged, or of another model.
        """
        step = processes.agreed(self.last_sound() if processes.is_writer() else 0)
        self._manager.reload()
        return state if step < 0 else self.restore_step(step, state)

    def restore_step(self, step: int, state: "TrainState") -> "TrainState":
        """The state saved at `step`, unchecked; see `restore`."""
        optimizer = {"opt_state": state.opt_state, "step": state.step}
        items = {"params": state.params, "optimizer": optimizer}
        restored = self._restore(step, items)
        return state.replace(params=restored["params"], **restored["optimizer"])

    def restore_before(self, step: int, state: "TrainState") -> "TrainState":
        """The last sound state saved before `step`; `state` when there is none. Moves nothing."""
        sound = self.sound([s for s in self.steps() if s < step], 1)
        return self.restore_step(sound[0], state) if sound else state

    def sound(self, steps: Sequence[int], number: int, *, below: str = "") -> list[int]:
        """The last `number` of `steps` that are not damaged, ascending; warns of those that are."""
        sound: list[int] = []
        for step in reversed(steps):
            if len(sound) == number:
                break
            files = manifest.damaged(self._folder / str(step), below=below)
            if files:
                log(f"warning: {_said(step, files)}; it is left out")
            else:
                sound.append(step)
        return sound[::-1]

    def last_sound(self, at_most: float = math.inf) -> int:
        """The last step, up to `at_most`, without damage; -1 = there is none.

        Those between the two are moved away. For the one run that trains here.

        Raises:
          UserError: if there are some, and all are damaged.
        """
        if not self._folder.exists():
            return -1
        self._remove_unfinished()
        self._set_aside_unlisted()
        found = {}
        for step in reversed([s for s in self.steps() if s <= at_most]):
            found[step] = manifest.damaged(self._folder / str(step))
            if not found[step]:
                break
        else:
            if found:
                raise UserError(
                    f"every checkpoint in {self._folder} is damaged "
                    f"({'; '.join(_said(s, files) for s, files in found.items())}): bring one "
                    "back from a copy, or choose another --workdir"
                )
            return -1
        for bad, files in found.items():
            if files:
                done = self._set_aside(bad)
                log(f"warning: {_said(bad, files)}; it is {done}, and step {step} serves")
        return step

    def restore_params(self, step: int, like: Any, sharding: jax.sharding.Sharding) -> Any:
        """The parameters saved at `step`, unchecked, with the shapes of `like`."""
        return self._restore(step, {"params": like}, sharding)["params"]

    def _restore(
        self, step: int, items: dict[str, Any], sharding: jax.sharding.Sharding | None = None
    ) -> Any:
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def shape(x: Any) -> jax.ShapeDtypeStruct:
            where = sharding or getattr(x, "sharding", None) or first
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

        args = {
            name: ocp.args.StandardRestore(jax.tree.map(shape, item))
            for name, item in items.items()
        }
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except (ValueError, KeyError) as e:
            raise UserError(
                f"checkpoint {self._folder / str(step)} is of another model ({_reason(e)})"
            ) from None
        except OSError as e:
            raise UserError(
                f"checkpoint {self._folder / str(step)} cannot be read ({_reason(e)})"
            ) from None

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: if the last one could not be saved.
        """
        failure = self.wait()
        self._manager.close()
        if failure is not None:
            raise UserError(f"the last checkpoint could not be saved: {_reason(failure)}")


def regular(steps: Sequence[int], every: int) -> list[int]:
    """Those of `steps`, which are ascending, that an average counts.

    >>> regular([4, 6, 7, 8, 9], 2)
    [4, 6, 8, 9]
    """
    return [step for step in steps if step % every == 0 or step == steps[-1]]


def by_score(steps: Sequence[int], scores: Mapping[int, float]) -> list[int]:
    """Those of `steps` that have a score, from the lowest to the highest."""
    return sorted((step for step in steps if step in scores), key=lambda step: scores[step])


class _Chosen(PreservationPolicy):
    """Keeps those steps that a function returns of all steps, which are ascending."""

    def __init__(self, choose: Callable[[Sequence[int]], Sequence[int]]) -> None:
        self._choose = choose

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether each of the `checkpoints` is one of them."""
        chosen = self._choose(sorted(c.step for c in checkpoints))
        return [c.step in chosen for c in checkpoints]


def _said(step: int, files: Sequence[str]) -> str:
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"the checkpoint of step {step} is damaged ({files[0]}{more})"


def _reason(error: Exception) -> str:
    full = "no space left" in str(error).lower() or getattr(error, "errno", None) == 28
    return "the disk is full" if full else " ".join(str(error).split())[:200]


def _set_aside(folder: Path, place: Path) -> str:
    """Moves `folder` into `place`; in a bucket, where that is a copy of everything, removes it."""
    if is_remote(folder):
        _remove(folder)
        return "removed"
    _remove(place / folder.name)
    place.mkdir(parents=True, exist_ok=True)
    folder.rename(place / folder.name)
    return f"moved to {place}"


def _remove(folder: Path) -> None:
    if is_remote(folder):
        if folder.exists():
            folder.rmtree()
    else:
        shutil.rmtree(folder, ignore_errors=True)
