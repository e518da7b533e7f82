"""Held-out pairs: which pairs of a text become another split, so that none shares a sentence."""

import hashlib
import random
from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from transformer_jax.data.pairs import Pair
from transformer_jax.errors import UserError


class NothingToTrainOnError(UserError):
    """The held-out pairs are all that there are; `fitting` is a size that leaves some, or 0."""

    def __init__(self, message: str, fitting: int) -> None:
        super().__init__(message)
        self.fitting = fitting


def fingerprint(text: str) -> int:
    """64 bits of a hash, by which a text is known among millions of others."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def hold_out(pairs: Iterable[Pair], size: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The numbers of `size` pairs, or a few more, for each of `names`; the rest is "train".

    Pairs that share a source or a target sentence stay together, even through a chain of others:
    no split has a sentence of another. The direction of the pairs makes no difference.

    >>> hold_out([("猫", "a cat"), ("狗", "a dog"), ("猫", "cats"), ("猫儿", "cats")], 1, ["test"])
    {'test': array([1]), 'train': array([0, 2, 3])}

    Raises:
      NothingToTrainOnError: if nothing is left.
    """
    sides = (fingerprint(text) for pair in pairs for text in pair)
    group = _groups(np.fromiter(sides, np.uint64).reshape(-1, 2))
    sizes = np.bincount(group)
    shuffled = array("i", range(len(sizes)))
    random.Random(0).shuffle(shuffled)
    cut = lambda size: _cut(np.asarray(shuffled), sizes, size, len(names))  # noqa: E731
    order, cuts = cut(size)
    if cuts[-1] == len(order):
        # A tenth of the pairs, or less where they are linked.
        tries = (len(group) // 10 >> n for n in range(len(group).bit_length()))
        fitting = next((s for s in tries if s and cut(s)[1][-1] < len(order)), 0)
        lower = f"lower it to {fitting}" if fitting else "give the other texts, or more text"
        message = (
            f"data.held_out_size={size} for each of {', '.join(names)} leaves nothing to train on "
            f"of {len(group)} pairs, in {len(order)} groups that share no sentence: {lower}"
        )
        raise NothingToTrainOnError(message, fitting)
    members, ends = np.argsort(group, kind="stable"), np.cumsum(sizes)
    parts, left = {}, np.ones(len(sizes), bool)
    for name, (start, end) in zip(names, pairwise(cuts), strict=True):
        # Held-out pairs stay shuffled: validation may translate only the first of them.
        taken = [members[ends[g] - sizes[g] : ends[g]] for g in order[start:end]]
        parts[name] = np.concatenate([*taken, members[:0]])
        left[order[start:end]] = False
    return parts | {"train": np.flatnonzero(left[group])}


def _cut(
    order: np.ndarray, sizes: np.ndarray, size: int, parts: int
) -> tuple[np.ndarray, list[int]]:
    """The groups in the order in which parts take them, and where each part starts and ends.

    A part takes whole groups until it has `size` pairs.
    """
    # A large group (all pairs linked to "Yes.") would be most of a split: it comes last.
    large = sizes[order] > max(1, size // 10)
    order = np.concatenate([order[~large], order[large]])
    pairs, cuts = np.concatenate([[0], np.cumsum(sizes[order])]), [0]
    for _ in range(parts):
        cuts.append(min(int(np.searchsorted(pairs, pairs[cuts[-1]] + size)), len(order)))
    return order, cuts


def _groups(sides: np.ndarray) -> np.ndarray:
    """The group of each pair, int32 [pairs], numbered by their first pairs.

    Equal sources or equal targets, uint64 [pairs, 2], link pairs (union-find).
    """
    numbers = np.arange(len(sides), dtype=np.int32)
    parent = array("i", numbers.tobytes())

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for side in sides.T:
        order = np.argsort(side, kind="stable")
        equal = np.flatnonzero(side[order[:-1]] == side[order[1:]])
        # Memory views iterate over Python integers without a list of them.
        links = memoryview(order[equal]), memoryview(order[equal + 1])
        for pair in zip(*links, strict=True):
            low, high = sorted(map(root, pair))
            parent[high] = low
    roots = np.asarray(parent)
    while (roots != (above := roots[roots])).any():
        roots = above
    return (np.cumsum(roots == numbers, dtype=np.int32) - 1)[roots]
