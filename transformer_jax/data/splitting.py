"""Held-out pairs: which pairs of a text become another split, so that none shares a sentence."""

import random
from collections.abc import Sequence

from transformer_jax.errors import UserError

Pair = tuple[str, str]


class NothingToTrainOnError(UserError):
    """The held-out pairs are all that there are; `fitting` is a size that leaves some, or 0."""

    def __init__(self, message: str, fitting: int) -> None:
        super().__init__(message)
        self.fitting = fitting


def hold_out(pairs: Sequence[Pair], size: int, names: Sequence[str]) -> dict[str, list[int]]:
    """The numbers of `size` pairs, or a few more, for each of `names`; the rest is "train".

    Pairs that share a source or a target sentence stay together, even through a chain of others:
    no split has a sentence of another. The direction of the pairs makes no difference.

    >>> hold_out([("猫", "a cat"), ("狗", "a dog"), ("猫", "cats"), ("猫儿", "cats")], 1, ["test"])
    {'test': [1], 'train': [0, 2, 3]}

    Raises:
      NothingToTrainOnError: if nothing is left.
    """
    groups = _groups(pairs)
    random.Random(0).shuffle(groups)
    parts = _cut(groups, size, names)
    if not parts["train"]:
        # A tenth of the pairs, or less where they are linked.
        sizes = (len(pairs) // 10 >> n for n in range(len(pairs).bit_length()))
        fitting = next((s for s in sizes if s and _cut(groups, s, names)["train"]), 0)
        lower = f"lower it to {fitting}" if fitting else "give the other texts, or more text"
        message = (
            f"data.held_out_size={size} for each of {', '.join(names)} leaves nothing to train on "
            f"of {len(pairs)} pairs, in {len(groups)} groups that share no sentence: {lower}"
        )
        raise NothingToTrainOnError(message, fitting)
    return parts


def _cut(groups: Sequence[Sequence[int]], size: int, names: Sequence[str]) -> dict[str, list[int]]:
    """Takes at least `size` of the indices for each of `names`, in whole groups."""
    # A large group (all pairs linked to "Yes.") would be most of a split: it comes last.
    remaining = iter(sorted(groups, key=lambda group: len(group) > max(1, size // 10)))
    parts: dict[str, list[int]] = {}
    for name in names:
        part = parts[name] = []
        while len(part) < size and (group := next(remaining, None)):
            part += group
    # Held-out pairs stay shuffled: validation may translate only the first of them.
    parts["train"] = sorted(i for group in remaining for i in group)
    return parts


def _groups(pairs: Sequence[Pair]) -> list[list[int]]:
    """Groups the indices of pairs that equal sources or targets link (union-find)."""
    parent = list(range(len(pairs)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for side in (0, 1):
        first: dict[str, int] = {}
        for i, pair in enumerate(pairs):
            parent[root(i)] = root(first.setdefault(pair[side], i))
    groups: dict[int, list[int]] = {}
    for i in range(len(pairs)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
