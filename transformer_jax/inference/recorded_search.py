"""A search with all that it considers: the real one, in a loop that keeps what it sees."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, UNK_ID, DecodeConfig
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.inference import record
from transformer_jax.inference.batch_search import search_batch
from transformer_jax.inference.search import length_normalizer
from transformer_jax.inference.search_loop import Body, Extensions, SearchResult, State
from transformer_jax.inference.translator import hypotheses_of
from transformer_jax.model.transformer import Transformer

_GREEDY_CANDIDATES = 10
# SentencePiece writes <s> and </s>, which a page would have to explain.
_SPECIAL = {PAD_ID: "<pad>", UNK_ID: "<unk>", BOS_ID: "<bos>", EOS_ID: "<eos>"}


class Kept(NamedTuple):
    """What each of T steps saw, for one sentence; rows from `steps` on are empty."""

    considered: Extensions  # [T, C]
    live: jax.Array  # int32 [T, K, T], the live hypotheses before the step
    grown: jax.Array  # int32 [T, K, T], the same after it
    grown_log_prob: jax.Array  # float32 [T, K]; -inf = none
    finished: jax.Array  # int32 [T, K, T], the finished ones after it
    finished_score: jax.Array  # float32 [T, K]; -inf = none
    steps: jax.Array  # int32 []


def search_and_keep(
    model: Transformer, decode: DecodeConfig, params: Any, source_tokens: jax.Array
) -> tuple[SearchResult, Kept]:
    """`search_batch` of one sentence, source_tokens int32 [1, S], by a greedy or a beam search."""
    count = 2 * decode.beam_size if decode.method == "beam" else _GREEDY_CANDIDATES
    kept = []

    def loop(body: Body, state: State) -> State:
        def look(state: State) -> tuple[State, Kept]:
            after, consider = body(state)
            live, grown, finished = state.live, after.live, after.finished
            seen = (consider(count), live.tokens, grown.tokens, grown.log_prob)
            seen = Kept(*seen, finished.tokens, finished.score, after.step)
            return after, jax.tree.map(lambda x: x[0] if x.ndim else x, seen)

        def step(carry: tuple[State, Kept]) -> tuple[State, Kept]:
            (state, all_), number = carry, carry[0].step
            state, seen = look(state)
            all_ = jax.tree.map(lambda xs, x: xs.at[number].set(x) if x.ndim else x, all_, seen)
            return state, all_

        like = jax.eval_shape(look, state)[1]
        length = state.live.tokens.shape[-1]
        empty = jax.tree.map(lambda x: jnp.zeros((length,) * (x.ndim > 0) + x.shape, x.dtype), like)
        state, found = lax.while_loop(lambda c: jnp.any(c[0].active), step, (state, empty))
        kept.append(found)
        return state

    nothing = jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32), jax.random.key(0)
    result = search_batch([model], decode, [params], source_tokens, *nothing, loop=loop)
    return result, kept[0]


def named(
    tokenizer: Tokenizer, decode: DecodeConfig, result: SearchResult, kept: Kept
) -> record.Search:
    """The record of a search, from arrays on the host."""
    beam = decode.method == "beam"
    penalty = decode.length_penalty if beam else 0.0
    (found,) = hypotheses_of(tokenizer, result, 1)
    lengths = np.arange(1, kept.steps + 1)
    form = {"length_penalty": penalty, "form": decode.length_penalty_form}
    normalizers = np.asarray(length_normalizer(lengths, **form))
    return record.Search(
        method=decode.method,
        beam_size=decode.beam_size if beam else 1,
        length_penalty=penalty,
        length_penalty_form=decode.length_penalty_form,
        steps=tuple(
            record.SearchStep(n, float(normalizer), _candidates(tokenizer, kept, n, normalizer))
            for n, normalizer in enumerate(normalizers)
        ),
        hypotheses=tuple(
            record.Hypothesis(
                piece_names(tokenizer, h.ids), h.ids, h.text, h.log_prob, len(h.ids), h.score
            )
            for h in found
        ),
    )


def _candidates(
    tokenizer: Tokenizer, kept: Kept, number: int, normalizer: float
) -> tuple[record.Candidate, ...]:
    considered = jax.tree.map(lambda x: x[number], kept.considered)
    possible = np.isfinite(considered.log_prob)
    parents, tokens, log_probs = (x[possible] for x in considered)
    rows = [(*kept.live[number, p, :number], t) for p, t in zip(parents, tokens, strict=True)]
    live, finished = (
        [tuple(row[: number + 1]) if np.isfinite(s) else None for row, s in zip(*pair, strict=True)]
        for pair in (
            (kept.grown[number], kept.grown_log_prob[number]),
            (kept.finished[number], kept.finished_score[number]),
        )
    )
    pieces = piece_names(tokenizer, tokens)
    texts = tokenizer.decode(rows)
    return tuple(
        record.Candidate(
            parent=int(parents[n]),
            piece=pieces[n],
            id=int(tokens[n]),
            log_prob=float(log_probs[n]),
            score=float(log_probs[n] / normalizer),
            text=texts[n],
            **_fate(row, live, finished),
        )
        for n, row in enumerate(rows)
    )


def _fate(row: tuple[int, ...], live: Sequence[Any], finished: Sequence[Any]) -> dict[str, Any]:
    if row[-1] == EOS_ID:  # a greedy search keeps it among the live ones
        ended = row in finished or row in live
        return {"kept": "finished" if ended else "dropped", "beam": None}
    if row in live:
        return {"kept": "live", "beam": live.index(row)}
    return {"kept": "dropped", "beam": None}


def piece_names(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    """The pieces of these ids, as they are written: "▁cat", "<eos>"."""
    return tuple(_SPECIAL.get(int(i), tokenizer.vocabulary[i]) for i in ids)
