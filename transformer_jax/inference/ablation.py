"""Parts of a model that are switched off, to see what becomes of a translation."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from transformer_jax.errors import UserError, nearest
from transformer_jax.model.transformer import Transformer

# Parts that are not in the parameters.
_POSITIONS = ("source/position", "target/position")
_MASK = "target/mask"
Switches = Mapping[str, jax.Array]  # bool scalars: whether a part is on


@dataclasses.dataclass(frozen=True)
class Off:
    """What is off.

    Attributes:
      heads: paths of output kernels in the parameters, each with the number of a head.
      parts: of "source/position", "target/position" and "target/mask".
    """

    heads: tuple[tuple[str, int], ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def switches(self) -> Switches:
        """For `switched`."""
        return {name: np.bool_(name not in self.parts) for name in (*_POSITIONS, _MASK)}

    def params(self, params: Any) -> Any:
        """`params` without the heads: their rows of W_O are 0."""
        if not self.heads:
            return params
        flat = traverse_util.flatten_dict(params, sep="/")
        for path, head in self.heads:
            flat[path] = jnp.asarray(flat[path]).at[head].set(0)
        return traverse_util.unflatten_dict(flat, sep="/")


def parse(names: Sequence[str], params: Any) -> Off:
    """Reads names such as "encoder_0/self_attention/head_3", "source/position", "target/mask".

    Heads are numbered from 0, as in the arrays. Without the mask, the decoder's self-attention
    sees the pieces that follow, too; while translating there are none.

    Raises:
      UserError: for what the model does not have.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    counts = {
        path.removesuffix("/output_kernel"): len(kernel)
        for path, kernel in flat.items()
        if path.endswith("/output_kernel")
    }
    heads = {f"{part}/head_{n}": (part, n) for part, count in counts.items() for n in range(count)}
    known = [*_POSITIONS, _MASK, *heads]
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            raise UserError(f"off={name!r} is no part of this model{hint}")
    chosen = [heads[name] for name in names if name in heads]
    paths = tuple((f"{part}/output_kernel", head) for part, head in chosen)
    return Off(paths, tuple(name for name in names if name not in heads))


@contextlib.contextmanager
def switched(on: Switches) -> Iterator[None]:
    """Within it, what is traced has only the parts that are on; one program serves all choices."""

    def intercept(
        method: Callable[..., Any],
        args: Sequence[Any],
        options: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        found = method(*args, **options)
        if isinstance(context.module, Transformer):
            if context.method_name == "encoding_of":
                _, side = args
                return jnp.where(on[f"{side}/position"], found, 0)
            if context.method_name == "mask_of" and options.get("causal"):
                return jnp.where(on[_MASK], found, method(*args, **options | {"causal": False}))
        return found

    with nn.intercept_methods(intercept):
        yield
