"""What a model computes for one sentence, array by array: the record that `Model.inside` returns.

Arrays are numpy, float32 unless another dtype is given, and have no batch axis. Letters: T target
pieces, S source pieces, D model width, N heads, H head width (Hv of values), F feed-forward width,
V vocabulary, L layers. Of an attention, Q is the number of queries and M that of keys: T or S.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from transformer_jax.config.options import ModelConfig

Parameters = Mapping[str, np.ndarray]  # by their names in `Model.params`


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Pieces as they enter the encoder or the decoder (sections 3.4 and 3.5).

    Attributes:
      pieces: Q strings, with <bos> or <eos>.
      ids: int32 [Q], their numbers in the vocabulary.
      embedding: [Q, D], multiplied by √d_model if the model does so.
      position: [Q, D], the position encoding.
      sum: [Q, D], of the two.
    """

    pieces: tuple[str, ...]
    ids: np.ndarray
    embedding: np.ndarray
    position: np.ndarray
    sum: np.ndarray


@dataclasses.dataclass(frozen=True)
class Attention:
    """Multi-head attention (section 3.2).

    Attributes:
      input: [Q, D], what the queries are made of.
      memory: [M, D], what the keys and values are made of: `input` itself in self-attention.
      query: [Q, N, H].
      key: [M, N, H].
      value: [M, N, Hv].
      scores: [N, Q, M], QKᵀ.
      scaled: [N, Q, M], QKᵀ/√d_k.
      mask: bool [Q, M], True = may attend.
      weights: [N, Q, M], softmax of `scaled` where the mask allows it; exactly 0 elsewhere.
      heads: [Q, N, Hv], Z = weights · V of each head.
      output: [Q, D], the heads side by side, times W_O.
      parameters: query_kernel and key_kernel [D, N, H], value_kernel [D, N, Hv], output_kernel
        [N, Hv, D], and the biases that the model has.
    """

    input: np.ndarray
    memory: np.ndarray
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    scores: np.ndarray
    scaled: np.ndarray
    mask: np.ndarray
    weights: np.ndarray
    heads: np.ndarray
    output: np.ndarray
    parameters: Parameters


@dataclasses.dataclass(frozen=True)
class AddNorm:
    """What surrounds a sub-layer: LayerNorm(x + Sublayer(x)), or x + Sublayer(LayerNorm(x)).

    Attributes:
      residual: [Q, D], x.
      sublayer: [Q, D], what the sub-layer gives.
      output: [Q, D], normalised in post-norm; the sum alone in pre-norm, whose sub-layer reads
        LayerNorm(x) instead: its `input`.
      parameters: scale and bias [D] of the LayerNorm.
    """

    residual: np.ndarray
    sublayer: np.ndarray
    output: np.ndarray
    parameters: Parameters


@dataclasses.dataclass(frozen=True)
class FeedForward:
    """The position-wise feed-forward network (section 3.3).

    Attributes:
      input: [Q, D].
      hidden: [Q, F], after the activation.
      output: [Q, D].
      parameters: w1 [D, F], b1 [F], w2 [F, D], b2 [D].
    """

    input: np.ndarray
    hidden: np.ndarray
    output: np.ndarray
    parameters: Parameters


@dataclasses.dataclass(frozen=True)
class EncoderLayer:
    """One layer of the encoder; `input` is [S, D], as the last `output`."""

    input: np.ndarray
    self_attention: Attention
    self_attention_add_norm: AddNorm
    feed_forward: FeedForward
    feed_forward_add_norm: AddNorm


@dataclasses.dataclass(frozen=True)
class DecoderLayer:
    """One layer of the decoder; `input` is [T, D], as the last `output`."""

    input: np.ndarray
    self_attention: Attention
    self_attention_add_norm: AddNorm
    cross_attention: Attention
    cross_attention_add_norm: AddNorm
    feed_forward: FeedForward
    feed_forward_add_norm: AddNorm


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the decoder expects after each piece of its input.

    Attributes:
      logits: [T, V].
      best_ids: int32 [T, k], the k = 10 most probable next pieces, best first.
      best_pieces: the same as strings.
      best_probs: [T, k].
      chosen_probs: [T], of the labels.
    """

    logits: np.ndarray
    best_ids: np.ndarray
    best_pieces: tuple[tuple[str, ...], ...]
    best_probs: np.ndarray
    chosen_probs: np.ndarray


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to grow a hypothesis by one piece, which a search considered.

    Attributes:
      parent: the hypothesis that grows: the `beam` of a candidate of the step before; 0 at first.
      piece: what it grows by.
      id: its number in the vocabulary.
      log_prob: of the whole, in nats.
      score: log_prob over the step's normalizer.
      text: of the whole.
      kept: "live" = grows on, "finished" = ends in <eos> and is among the best, or "dropped".
      beam: its number among the live hypotheses from now on; None = it is not live.
    """

    parent: int
    piece: str
    id: int
    log_prob: float
    score: float
    text: str
    kept: Literal["live", "finished", "dropped"]
    beam: int | None


@dataclasses.dataclass(frozen=True)
class SearchStep:
    """One step of a search.

    Attributes:
      step: from 0.
      normalizer: the length penalty: what log-probs of this length are divided by.
      candidates: the best that the step considered, by falling log_prob: 2K for K beams, of which
        K suffice if none ends; 10 in a greedy search.
    """

    step: int
    normalizer: float
    candidates: tuple[Candidate, ...]


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A translation that a search found.

    Attributes:
      pieces: with <eos>, unless it was cut at the limit.
      ids: their numbers in the vocabulary.
      text: what they spell.
      log_prob: nats.
      length: the number of pieces.
      score: log_prob over the length penalty.
    """

    pieces: tuple[str, ...]
    ids: tuple[int, ...]
    text: str
    log_prob: float
    length: int
    score: float


@dataclasses.dataclass(frozen=True)
class Search:
    """A greedy or a beam search (section 6.1).

    Attributes:
      method: "greedy" or "beam".
      beam_size: K, 1 in a greedy search.
      length_penalty: α, 0 in a greedy search.
      length_penalty_form: of `DecodeConfig`.
      steps: until the search stops.
      hypotheses: what it found, best first.
    """

    method: str
    beam_size: int
    length_penalty: float
    length_penalty_form: str
    steps: tuple[SearchStep, ...]
    hypotheses: tuple[Hypothesis, ...]


@dataclasses.dataclass(frozen=True)
class Inside:
    """All that a model computes for one sentence: its searches, and teacher-forced on a target.

    Attributes:
      source: the sentence, with its <eos>.
      target: what the decoder reads: <bos> and the target without its last piece.
      labels: T strings, the piece that follows each of the target's; <eos> last, unless a search
        was cut at its limit.
      encoder: L layers.
      encoded: [S, D], what the encoder gives the decoder: the matrix C.
      decoder: L layers.
      decoded: [T, D], what the logits are made of.
      prediction: the next pieces.
      loss: nats per piece of the labels, without label smoothing.
      greedy: the greedy search.
      beam: beam search, if asked for.
      translation: the model's own: the best hypothesis by the method of `DecodeConfig`.
      model: the architecture.
      steps: of the checkpoints that the parameters are the mean of.
      off: what was switched off.
    """

    source: Embedded
    target: Embedded
    labels: tuple[str, ...]
    encoder: tuple[EncoderLayer, ...]
    encoded: np.ndarray
    decoder: tuple[DecoderLayer, ...]
    decoded: np.ndarray
    prediction: Prediction
    loss: float
    greedy: Search
    beam: Search | None
    translation: str
    model: ModelConfig
    steps: tuple[int, ...]
    off: tuple[str, ...]
