"""BPE-dropout: other pieces of the same text (Provilkov et al. 2020).

SentencePiece can sample pieces, too, but since 0.2.3 its random numbers differ between processes
whatever the seed, so a run could not be resumed exactly.
"""

import itertools
from collections.abc import Set

import numpy as np

from transformer_jax.data.tokenizer import Tokenizer

_NO_MERGE = np.iinfo(np.int32).max


class SubwordDropout:
    """Cuts token ids anew: into characters, which byte-pair encoding merges with dropout.

    Without dropout the pieces are those of SentencePiece. Pieces that are no merge, such as bytes,
    codes and <eos>, stay as they are.

    Attributes:
      rate: p, the probability that a possible merge is left out in a step of the encoding.
    """

    def __init__(self, tokenizer: Tokenizer, rate: float) -> None:
        self.rate, self._size = rate, tokenizer.vocab_size
        scores = tokenizer.merge_scores()
        ids = {piece: number for number, piece in enumerate(tokenizer.vocabulary)}
        normal = scores.keys() & ids.keys()
        spelled = [_spelling(piece, ids, normal) for piece in tokenizer.vocabulary]
        self._characters = np.concatenate(spelled)
        self._counts = np.array([len(characters) for characters in spelled])
        spans = {pair for characters in spelled for pair in itertools.pairwise(characters.tolist())}
        self._spans = np.array(sorted(left * self._size + right for left, right in spans), np.int64)
        best_first = sorted(normal, key=scores.__getitem__, reverse=True)
        merges = {
            ids[piece[:cut]] * self._size + ids[piece[cut:]]: rank
            for rank, piece in enumerate(best_first)
            for cut in range(1, len(piece))
            if piece[:cut] in normal and piece[cut:] in normal
        }
        self._by_rank = np.array([ids[piece] for piece in best_first], np.int32)
        # The last key, which no pair has, stands for all pairs that are no merge.
        self._keys = np.array([*sorted(merges), np.iinfo(np.int64).max], np.int64)
        self._ranks = np.array([*map(merges.get, sorted(merges)), _NO_MERGE], np.int32)

    def __call__(
        self, tokens: np.ndarray, offsets: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Other pieces of the same sentences.

        Args:
          tokens: int [all tokens].
          offsets: int64 [sentences + 1], where each sentence starts, and the end of the last.
          rng: decides which merges are left out.

        Returns:
          The new int32 tokens and int64 offsets.
        """
        counts = self._counts[tokens]
        starts = np.concatenate([[0], np.cumsum(counts)])
        first = np.concatenate([[0], np.cumsum(self._counts)])[tokens]
        place = np.repeat(first - starts[:-1], counts) + np.arange(starts[-1])
        pieces = self._characters[place]
        sentence_starts = starts[offsets - offsets[0]]
        keep = self._merge(pieces, sentence_starts[:-1], rng)
        kept = np.concatenate([[0], np.cumsum(keep)])
        return pieces[keep], kept[sentence_starts].astype(np.int64)

    def _merge(
        self, pieces: np.ndarray, sentence_starts: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Merges `pieces` in place, and returns which places are still in use, bool.

        The units that merge are as short as can be: they end where no piece goes across. All units
        that still merge have the same length, since each step takes one piece off each of them, and
        the shorter ones join them when they have come down to their length.
        """
        starts = np.ones(len(pieces), bool)
        starts[1:] = ~np.isin(self._key(pieces[:-1], pieces[1:]), self._spans)
        starts[sentence_starts] = True
        unit_starts = np.flatnonzero(starts)
        lengths = np.diff(unit_starts, append=len(pieces))
        longest = int(lengths.max(initial=1))
        keep, active = lengths.repeat(lengths) == 1, np.zeros(0, np.int64)
        ids, ranks = np.zeros((0, longest), np.int32), np.zeros((0, longest - 1), np.int32)
        for length in range(longest, 1, -1):
            new = unit_starts[lengths == length]
            new_ids = pieces[new[:, None] + np.arange(length)]
            active, ids = np.concatenate([active, new]), np.concatenate([ids, new_ids])
            ranks = np.concatenate([ranks, self._rank(new_ids[:, :-1], new_ids[:, 1:])])
            left = np.where(rng.random(ranks.shape, np.float32) < self.rate, _NO_MERGE, ranks)
            best = left.argmin(axis=1)
            goes = left[np.arange(len(best)), best] < _NO_MERGE
            _keep_pieces(pieces, keep, active[~goes], ids[~goes])
            active, best = active[goes], best[goes]
            ids, ranks = self._merged_at(ids[goes], ranks[goes], best)
        _keep_pieces(pieces, keep, active, ids)
        return keep

    def _merged_at(
        self, ids: np.ndarray, ranks: np.ndarray, best: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Merges the pieces `best` and best + 1 of each row of ids [units, n] and their ranks."""
        row, length = np.arange(len(ids)), ids.shape[1]
        merged = self._by_rank[ranks[row, best]]
        ids = _without_column(ids, best + 1)
        ids[row, best] = merged
        ranks = _without_column(ranks, best)
        for place in (best - 1, best):
            inside = (place >= 0) & (place < length - 2)
            r, p = row[inside], place[inside]
            ranks[r, p] = self._rank(ids[r, p], ids[r, p + 1])
        return ids, ranks

    def _key(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left.astype(np.int64) * self._size + right

    def _rank(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Which merge of each pair comes first: the lowest; `_NO_MERGE` if a pair has none."""
        keys = self._key(left, right)
        place = np.searchsorted(self._keys, keys)
        return self._ranks[np.where(self._keys[place] == keys, place, -1)]


def _spelling(piece: str, ids: dict[str, int], normal: Set[str]) -> np.ndarray:
    """The ids of the characters of a piece that merges make; otherwise its own id."""
    spelled = piece in normal and all(character in normal for character in piece)
    return np.array([ids[character] for character in piece] if spelled else [ids[piece]], np.int32)


def _without_column(table: np.ndarray, column: np.ndarray) -> np.ndarray:
    """`table` [rows, n] without one column of each row: [rows, n - 1]."""
    keep = np.arange(table.shape[1]) != column[:, None]
    return table[keep].reshape(len(table), table.shape[1] - 1)


def _keep_pieces(pieces: np.ndarray, keep: np.ndarray, starts: np.ndarray, ids: np.ndarray) -> None:
    """Writes finished units, ids [units, n], to the places from their `starts` on."""
    place = starts[:, None] + np.arange(ids.shape[1])
    pieces[place], keep[place] = ids, True
