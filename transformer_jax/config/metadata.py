"""What is known about an option besides its type and default: its range, its help, and so on.

Each fact is metadata on the field of a dataclass. Checks, errors, comparisons of two configurations
and docs/options.md are derived from it.
"""

import dataclasses
import enum
import math
import operator
import os
from collections.abc import Iterator
from typing import Any

from transformer_jax.config import texts
from transformer_jax.errors import UserError, nearest

# The facts of an option that is a share, and an input of the compiled training step.
RATE = {"at_least": 0, "below": 1, "traced": True}
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_LIMITS = {
    "above": operator.gt,
    "at_least": operator.ge,
    "below": operator.lt,
    "at_most": operator.le,
}


class Change(enum.IntEnum):
    """When an option may get another value; each moment includes those before it."""

    NEVER = 0  # The option decides what the trained model computes.
    AFTER_TRAINING = 1  # It decides what is learned, and not what the trained weights mean.
    ON_RESUME = 2  # A run may resume with another value; the points of a sweep share it.
    ANY_TIME = 3  # It changes no result.

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One option.

    Attributes:
      name: its dotted name: "model.d_ff".
      kind: its type: int, float, bool or str.
      default: its default.
      help: what it is, in Markdown.
      above, at_least, below, at_most: the limits of a number; None = no limit.
      also: a number outside of the limits that has a meaning of its own.
      choices: the values of a text; empty = any text.
      may_change: until when it may get another value.
      may_move: it is the path of a file, which may move at any time, but not come or go.
      is_path: it is a path, which config.json holds as an absolute one.
      are_paths: it is a list of paths that start from data.path, if data.corpus is "files"; their
        files may move, under the same names.
      traced: it is an input of the compiled training step, so another value compiles nothing.
      none_if_zero: 0 leaves its operation out of the compiled step.
    """

    name: str
    kind: type
    default: Any
    help: str
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    also: float | None = None
    choices: tuple[str, ...] = ()
    may_change: Change
    may_move: bool = False
    is_path: bool = False
    are_paths: bool = False
    traced: bool = False
    none_if_zero: bool = False

    @property
    def range(self) -> str:
        """The limits in words, "above 0 and at most 1"; "" if there are none."""
        words = [f"{name.replace('_', ' ')} {limit}" for name, limit, _ in self._limits()]
        return " and ".join(words) + ("" if self.also is None else f", or {self.also}")

    def converted(self, value: Any) -> Any:
        """`value` in the option's type; a whole number will do for a number.

        Raises:
          UserError: naming the option, its value and what it could be.
        """
        accepted = (int, float) if self.kind is float else self.kind
        # In Python True is a whole number, and here it is not.
        if not isinstance(value, accepted) or isinstance(value, bool) != (self.kind is bool):
            raise UserError(f"{self.name}={value!r} is not {KINDS[self.kind]}")
        try:
            return self.kind(value)
        except OverflowError:  # a whole number that no float reaches
            raise UserError(f"{self.name} must be a finite number") from None

    def check(self, value: Any) -> None:
        """Raises UserError, as `converted` does, if `value` is outside of the range as well."""
        value = self.converted(value)
        if self.choices and value not in self.choices:
            near = nearest(value, list(self.choices))
            raise UserError(f"{self.name}={value!r} is none of: {', '.join(self.choices)}{near}")
        if self.kind is float and not math.isfinite(value):
            raise UserError(f"{self.name}={value} must be a finite number")
        inside = all(compare(value, limit) for _, limit, compare in self._limits())
        if not inside and value != self.also:
            raise UserError(f"{self.name}={value} must be {self.range}")

    def allows(self, then: Any, now: Any, moment: Change) -> bool:
        """Whether the option may have been `then` and be `now` at that moment."""
        moved = self.may_move and then and now
        moved = moved or (self.are_paths and _file_names(then) == _file_names(now))
        return bool(then == now or self.may_change >= moment or moved)

    def _limits(self) -> Iterator[tuple[str, float, Any]]:
        for name, compare in _LIMITS.items():
            limit = getattr(self, name)
            if limit is not None:
                yield name, limit, compare


def _file_names(value: str) -> str:
    return texts.with_paths(value, os.path.basename)


def option(default: Any, help: str, **facts: Any) -> Any:
    """A field of a dataclass with this default; `facts` are attributes of `Option`."""
    return dataclasses.field(default=default, metadata={"help": help, **facts})


def section(group: type, *, may_change: Change) -> Any:
    """A field that is a dataclass of options; one that sets no `may_change` inherits this one."""
    return dataclasses.field(default_factory=group, metadata={"may_change": may_change})


def options_of(group: type, prefix: str = "", **inherited: Any) -> Iterator[Option]:
    """The options of a dataclass and of its sections, in the order of their fields."""
    for f in dataclasses.fields(group):
        if dataclasses.is_dataclass(f.type):
            yield from options_of(f.type, f"{prefix}{f.name}.", **f.metadata)
        else:
            facts = {**inherited, **f.metadata}
            yield Option(name=prefix + f.name, kind=f.type, default=f.default, **facts)
