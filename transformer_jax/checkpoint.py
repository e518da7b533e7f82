"""Checkpoints through orbax: asynchronous, atomic; the last few and the best are kept.

The state is saved as two items, `params` and `optimizer`, so that translating reads the first
alone. What the configuration gives (the hyperparameters) is not saved.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from transformer_jax.config import WEIGHTS, UserError, is_remote

if TYPE_CHECKING:  # for its name alone: imports run downward
    from transformer_jax.training import TrainState


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: Path, *, keep: int) -> None:
        """`keep` is how many of the last checkpoints are kept, besides the best."""
        self._keep = keep
        policies = [
            LatestN(keep),
            BestN(get_metric_fn=_bleu, n=1, keep_checkpoints_without_metrics=False),
        ]
        folder = workdir / "checkpoints"
        self._manager = ocp.CheckpointManager(
            # What is in a bucket has no other name, and epath would look for it in the folder here.
            folder if is_remote(folder) else folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(policies),
                best_fn=_bleu,
                enable_async_checkpointing=True,
            ),
            item_names=("params", "optimizer"),
        )

    def save(self, step: int, state: "TrainState", valid_bleu: float | None) -> None:
        """Starts to save `state`, and returns when the device's copy is no longer needed."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                optimizer=ocp.args.StandardSave({"opt_state": state.opt_state, "step": state.step}),
            ),
            metrics=None if valid_bleu is None else {"bleu": valid_bleu},
        )

    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def restore(self, state: "TrainState") -> "TrainState":
        """The last saved state; `state` when there is none.

        Shapes, dtypes, and the devices that each array is on, are as in `state`.
        """
        step = self._manager.latest_step()
        if step is None:
            return state
        optimizer = {"opt_state": state.opt_state, "step": state.step}
        items = {"params": state.params, "optimizer": optimizer}
        restored = self._restore(step, items)
        return state.replace(params=restored["params"], **restored["optimizer"])

    def restore_params(
        self, like: Any, weights: str, sharding: jax.sharding.Sharding | None = None
    ) -> tuple[Any, list[int]]:
        """Parameters to translate with, and the steps they come from.

        Args:
          like: parameters or their shapes.
          weights: "average" of the last checkpoints (Vaswani et al. 2017, section 6.1), "latest",
            or "best" by validation BLEU.
          sharding: where to put them; None = on the first device.

        Raises:
          UserError: without a checkpoint, or without one that was evaluated for "best".
        """
        steps = self._steps_of(weights)
        total = None
        for step in steps:
            params = self._restore(step, {"params": like}, sharding)["params"]
            total = params if total is None else jax.tree.map(lambda a, b: a + b, total, params)
        return jax.tree.map(lambda x: x / len(steps), total), steps

    def _steps_of(self, weights: str) -> Sequence[int]:
        if weights not in WEIGHTS:
            raise UserError(f"weights={weights!r} is none of: {', '.join(WEIGHTS)}")
        steps = self.steps()
        folder = self._manager.directory.parent
        if not steps:
            raise UserError(f"{folder} has no checkpoint: train there first")
        if weights == "best":
            best = self._manager.best_step()
            if best is None or self._manager.metrics(best) is None:
                raise UserError(
                    f"{folder} has no evaluated checkpoint: use --weights=average, "
                    "or train with train.evaluate_every"
                )
            return [best]
        return steps[-self._keep :] if weights == "average" else steps[-1:]

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
        except (ValueError, OSError, KeyError) as e:
            reason = str(e).partition("\n")[0][:200]
            folder = self._manager.directory / str(step)
            raise UserError(
                f"checkpoint {folder} is damaged, or of another model ({reason}): "
                "remove that folder, and the one before it serves"
            ) from None

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _bleu(metrics: dict[str, float]) -> float:
    return metrics["bleu"]
