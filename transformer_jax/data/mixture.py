"""A mixture of corpora: which pairs an epoch draws, as a pure function of (sizes, seed, epoch)."""

from collections.abc import Mapping

import numpy as np

from transformer_jax.errors import UserError

# Apart from the random numbers of the rows and of the pieces.
_DRAWS = 2


def pairs_per_epoch(
    sizes: Mapping[str, int], weights: Mapping[str, float], temperature: float
) -> dict[str, int]:
    """How many pairs of each corpus are drawn in an epoch, which has as many as all of them.

    The shares are weight · size^(1 / temperature), divided by their sum; at temperature 0 the
    weights alone.

    >>> sizes = {"news": 900, "med": 100}
    >>> pairs_per_epoch(sizes, {"news": 1, "med": 1}, 1.0)
    {'news': 900, 'med': 100}
    >>> pairs_per_epoch(sizes, {"news": 1, "med": 3}, 1.0)
    {'news': 750, 'med': 250}
    >>> pairs_per_epoch(sizes, {"news": 1, "med": 1}, 2.0)
    {'news': 750, 'med': 250}
    >>> pairs_per_epoch(sizes, {"news": 1, "med": 1}, 0.0)
    {'news': 500, 'med': 500}

    Raises:
      UserError: if a corpus has no pairs.
    """
    empty = [name for name, size in sizes.items() if not size]
    if empty:
        raise UserError(
            f"the corpus {empty[0]} of data.train has no pairs to train on that fit into a row: "
            "lower data.held_out_size, raise the row lengths, or leave the corpus out"
        )
    counted = np.array([*sizes.values()], np.float64)
    shares = np.array([weights[name] for name in sizes], np.float64)
    shares /= shares.max()
    shares *= (counted / counted.max()) ** (1 / temperature) if temperature else 1
    exact = shares / shares.sum() * counted.sum()
    counts = np.floor(exact + 1e-9).astype(np.int64)
    # What is left after rounding goes to those that lost most.
    left = int(counted.sum()) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    never = [name for name, count in zip(sizes, counts, strict=True) if not count]
    if never:
        raise UserError(
            f"the corpus {never[0]} of data.train has so small a share that no epoch draws a pair "
            "of it: raise its weight, lower the others', or raise data.mixing_temperature"
        )
    return dict(zip(sizes, counts.tolist(), strict=True))


def draw(sizes: Mapping[str, int], counts: Mapping[str, int], seed: int, epoch: int) -> np.ndarray:
    """The numbers of the pairs of one epoch, int64 [sum of `counts`], in ascending order.

    Each corpus is gone through in passes, each in an order of its own, and every epoch takes the
    next `counts` pairs: so no pair comes twice before all others of its corpus have come once.

    Args:
      sizes: the pairs of each corpus, which follow each other in the text.
      counts: how many pairs of each an epoch draws.
      seed: decides the orders.
      epoch: from 0.
    """
    drawn, first = [np.zeros(0, np.int64)], 0
    for number, (name, size) in enumerate(sizes.items()):
        start, end = epoch * counts[name], (epoch + 1) * counts[name]
        begun = start // size
        passes = [
            np.random.default_rng([seed, turn, _DRAWS, number]).permutation(size)
            for turn in range(begun, -(-end // size))
        ]
        order = np.concatenate([np.zeros(0, np.int64), *passes])
        drawn.append(first + order[start - begun * size : end - begun * size])
        first += size
    return np.sort(np.concatenate(drawn))
