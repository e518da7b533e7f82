"""What a model computes for one sentence, taken out of the model by linen's `sow`.

The forward pass is the model's own; what it records costs nothing unless a caller asks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, DecodeConfig, ModelConfig
from transformer_jax.data.text import is_blank
from transformer_jax.data.tokenizer import Tokenizer, Tokenizers
from transformer_jax.errors import UserError
from transformer_jax.functional import probabilities
from transformer_jax.inference import ablation, record
from transformer_jax.inference.batching import bucket, padded, source_lengths
from transformer_jax.inference.recorded_search import Kept, named, piece_names, search_and_keep
from transformer_jax.inference.search_loop import SearchResult
from transformer_jax.inference.sources import Sources
from transformer_jax.model.layers import SEEN
from transformer_jax.model.transformer import Transformer

_BEST = 10  # next pieces that a prediction lists
# Methods whose results are kept, beside what `Attention` and `FeedForward` sow.
_METHODS = {
    *("embedding_of", "encoding_of", "_embed", "encode"),
    *("keys_values", "attend", "before", "after", "__call__"),
}


class Capture:
    """Looks into one model, whose forward pass and searches it compiles once for each shape."""

    def __init__(
        self, transformer: Transformer, tokenizers: Tokenizers, decode: DecodeConfig
    ) -> None:
        # The gradient alone needs remat.
        config = dataclasses.replace(transformer.config, remat=False)
        self._transformer = transformer.clone(config=config)
        self.tokenizers, self.config, self.decode = tokenizers, config, decode
        self._sources = Sources(tokenizers.source, decode.target_token)
        self._source_lengths = source_lengths([config], decode.extra_length)
        longest = self._source_lengths[-1] + decode.extra_length
        self._target_lengths = *self._source_lengths, longest
        self._forward = jax.jit(self._traced_forward)
        self._search = jax.jit(self._traced_search, static_argnames="method")

    def inside(
        self,
        params: Any,
        steps: Sequence[int],
        source: str,
        target: str | None = None,
        *,
        beams: bool = True,
        off: Sequence[str] = (),
        length_penalty: float | None = None,
    ) -> record.Inside:
        """See `Model.inside`; `params` are those of the checkpoints of `steps`."""
        without = ablation.parse(off, params)
        params = without.params(params)
        source_ids = self._source_ids(source)
        penalty = self.decode.length_penalty if length_penalty is None else length_penalty
        how = (params, source_ids, penalty, without.switches)
        greedy = self._found("greedy", *how)
        beam = self._found("beam", *how) if beams else None
        search = greedy if beam is None or self.decode.method == "greedy" else beam
        best = search.hypotheses[0]
        target_ids = best.ids if target is None else self._target_ids(target)
        return record.Inside(
            **self._computed(params, source_ids, target_ids, without.switches),
            greedy=greedy,
            beam=beam,
            translation=best.text,
            model=self.config,
            steps=tuple(steps),
            off=tuple(off),
        )

    def _source_ids(self, source: str) -> list[int]:
        if is_blank(source):
            raise UserError("the sentence is blank: there is nothing to look into")
        (ids,) = self._sources.encode([source])
        return _within(ids, self._source_lengths[-1], "sentence")

    def _target_ids(self, target: str) -> list[int]:
        (ids,) = self.tokenizers.target.encode([target])
        return _within([*ids, EOS_ID], self._target_lengths[-1], "translation")

    def _found(
        self,
        method: str,
        params: Any,
        source_ids: Sequence[int],
        penalty: float,
        switches: ablation.Switches,
    ) -> record.Search:
        tokens = padded([source_ids], (1, bucket(len(source_ids), self._source_lengths)))
        found = self._search(params, tokens, np.float32(penalty), switches, method=method)
        decode = dataclasses.replace(self.decode, method=method, length_penalty=penalty)
        return named(self.tokenizers.target, decode, *jax.device_get(found))

    def _traced_search(
        self,
        params: Any,
        source_tokens: jax.Array,
        penalty: jax.Array,
        switches: ablation.Switches,
        *,
        method: str,
    ) -> tuple[SearchResult, Kept]:
        # The penalty is traced, so that another one needs no compilation.
        decode = dataclasses.replace(self.decode, method=method, length_penalty=penalty)
        with ablation.switched(switches):
            return search_and_keep(self._transformer, decode, params, source_tokens)

    def _computed(
        self,
        params: Any,
        source_ids: Sequence[int],
        target_ids: Sequence[int],
        switches: ablation.Switches,
    ) -> dict[str, Any]:
        """The fields of the record that one forward pass gives."""
        rows = [source_ids, [BOS_ID, *target_ids[:-1]], target_ids]
        lengths = self._source_lengths, self._target_lengths, self._target_lengths
        shapes = [(1, bucket(len(ids), of)) for ids, of in zip(rows, lengths, strict=True)]
        arrays = [padded([ids], shape) for ids, shape in zip(rows, shapes, strict=True)]
        outputs, seen = jax.device_get(self._forward(params, *arrays, switches))
        s, t = len(source_ids), len(target_ids)
        view = _View(seen, jax.device_get(params), self.config)
        source, target = (
            view.embedded(tokenizer, ids, number)
            for number, (tokenizer, ids) in enumerate(zip(self.tokenizers, rows, strict=False))
        )
        encoded = _rows(outputs["encoded"], s)
        prediction = self._prediction(outputs, t)
        return {
            "source": source,
            "target": target,
            "labels": piece_names(self.tokenizers.target, target_ids),
            "encoder": view.encoder(source.sum),
            "encoded": encoded,
            "decoder": view.decoder(target.sum, encoded),
            "decoded": _rows(outputs["decoded"], t),
            "prediction": prediction,
            "loss": float(-outputs["log_probs"][0, :t].mean()),
        }

    def _traced_forward(
        self,
        params: Any,
        source_tokens: jax.Array,
        decoder_input: jax.Array,
        labels: jax.Array,
        switches: ablation.Switches,
    ) -> tuple[dict[str, jax.Array], Any]:
        options = {"mutable": [SEEN], "capture_intermediates": _is_kept}
        with ablation.switched(switches):
            logits, variables = self._transformer.apply(
                {"params": params}, source_tokens, decoder_input, **options
            )
        seen = variables[SEEN]
        probs, ids = jax.lax.top_k(jax.nn.softmax(logits), min(_BEST, logits.shape[-1]))
        depth = self.config.decoder_depth
        last = "decoder_norm" if self.config.norm == "pre" else f"decoder_{depth - 1}"
        outputs = {
            "logits": logits,
            "best_probs": probs,
            "best_ids": ids,
            "log_probs": probabilities.token_log_probs(logits, labels, pad_id=PAD_ID),
            "encoded": seen["encode"][0],
            "decoded": seen[last]["__call__"][0],
        }
        return outputs, seen

    def _prediction(self, outputs: Mapping[str, np.ndarray], length: int) -> record.Prediction:
        best_ids = outputs["best_ids"][0, :length]
        return record.Prediction(
            logits=_rows(outputs["logits"], length),
            best_ids=best_ids,
            best_pieces=tuple(piece_names(self.tokenizers.target, row) for row in best_ids),
            best_probs=_rows(outputs["best_probs"], length),
            chosen_probs=np.exp(_rows(outputs["log_probs"], length)),
        )


@dataclasses.dataclass(frozen=True)
class _View:
    """What a forward pass sowed, by module and method, and the parameters: as records."""

    seen: Mapping[str, Any]
    params: Mapping[str, Any]
    config: ModelConfig

    def embedded(self, tokenizer: Tokenizer, ids: Sequence[int], number: int) -> record.Embedded:
        """Of the source (0) or the target (1), which the model embeds in this order."""
        methods = ("embedding_of", "encoding_of", "_embed")
        # Positions are the same for every row of a batch, so that they may lack its axis.
        arrays = [_rows(self.seen[method][number], len(ids)) for method in methods]
        return record.Embedded(piece_names(tokenizer, ids), np.array(ids, np.int32), *arrays)

    def encoder(self, x: np.ndarray) -> tuple[record.EncoderLayer, ...]:
        layers = []
        for number in range(self.config.encoder_depth):
            name = f"encoder_{number}"
            attended = self._attention(name, "self_attention", x)
            fed = self._feed_forward(name, attended[1].output)
            layers.append(record.EncoderLayer(x, *attended, *fed))
            x = fed[1].output
        return tuple(layers)

    def decoder(self, x: np.ndarray, encoded: np.ndarray) -> tuple[record.DecoderLayer, ...]:
        layers = []
        for number in range(self.config.decoder_depth):
            name = f"decoder_{number}"
            attended = self._attention(name, "self_attention", x)
            crossed = self._attention(name, "cross_attention", attended[1].output, encoded)
            fed = self._feed_forward(name, crossed[1].output)
            layers.append(record.DecoderLayer(x, *attended, *crossed, *fed))
            x = fed[1].output
        return tuple(layers)

    def _attention(
        self, layer: str, name: str, x: np.ndarray, memory: np.ndarray | None = None
    ) -> tuple[record.Attention, record.AddNorm]:
        seen = self.seen[layer][name]
        read = _rows(self.seen[layer][f"{name}_residual"]["before"][0], len(x))
        memory = read if memory is None else memory
        q, m = len(read), len(memory)
        key, value = seen["keys_values"][0]
        query = _rows(seen["query"][0], q)
        scores = _float32(seen["scores"][0][0, :, :q, :m])
        mask = np.broadcast_to(seen["mask"][0], seen["scores"][0].shape)[0, 0, :q, :m]
        output = _rows(seen["attend"][0], q)
        attention = record.Attention(
            input=read,
            memory=memory,
            query=query,
            key=_rows(key, m),
            value=_rows(value, m),
            scores=scores,
            scaled=scores * np.float32(query.shape[-1] ** -0.5),
            mask=mask,
            weights=_float32(seen["weights"][0][0, :, :q, :m]),
            heads=_rows(seen["heads"][0], q),
            output=output,
            parameters=self.params[layer][name],
        )
        return attention, self._add_norm(layer, name, x, output)

    def _feed_forward(self, layer: str, x: np.ndarray) -> tuple[record.FeedForward, record.AddNorm]:
        name, q = "feed_forward", len(x)
        seen = self.seen[layer][name]
        read = _rows(self.seen[layer][f"{name}_residual"]["before"][0], q)
        hidden, output = (_rows(seen[key][0], q) for key in ("hidden", "__call__"))
        fed = record.FeedForward(read, hidden, output, self.params[layer][name])
        return fed, self._add_norm(layer, name, x, output)

    def _add_norm(self, layer: str, name: str, x: np.ndarray, output: np.ndarray) -> record.AddNorm:
        name = f"{name}_residual"
        after = _rows(self.seen[layer][name]["after"][0], len(x))
        return record.AddNorm(x, output, after, self.params[layer][name]["norm"])


def _is_kept(module: nn.Module, method: str) -> bool:
    return method in _METHODS


def _rows(batch: np.ndarray, length: int) -> np.ndarray:
    """The first `length` positions of the only sentence of [1, Q, ...]."""
    return _float32(batch[0, :length])


def _float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)


def _within(ids: list[int], most: int, name: str) -> list[int]:
    if len(ids) > most:
        raise UserError(f"the {name} has {len(ids)} pieces; the most are {most}")
    return ids
