"""How a model does on the validation split, while it trains."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from transformer_jax.data.packing import Batch
from transformer_jax.evaluation.scores import corpus_bleu
from transformer_jax.inference.translator import Translator, first_best
from transformer_jax.model.layers import NO_DROPOUT
from transformer_jax.training.prepared import Prepared
from transformer_jax.training.step import make_loss

SAMPLES = 5


class Validation:
    """Loss and greedy BLEU on the validation split; compiled at its first call.

    Of a split with several corpora, also those of each: "loss/news", "bleu/news".
    """

    def __init__(self, prepared: Prepared) -> None:
        config, model, valid = prepared.config, prepared.model, prepared.valid
        self._target_language = config.data.target_language
        self._devices = prepared.devices.data_parallel
        self._corpora = list(dict.fromkeys(valid.origins))
        origins, count = np.array(valid.origins), len(valid.pairs)
        translated = min(count, config.train.evaluate_sentences or count)
        if len(self._corpora) > 1:
            # The corpora follow each other: an even choice has some of each.
            chosen = np.linspace(0, count - 1, translated).round().astype(int).tolist()
            parts = [np.flatnonzero(origins == name) for name in self._corpora]
            self._batches = [prepared.validation.one_epoch(part) for part in parts]
        else:
            chosen, self._batches = range(translated), [prepared.validation.one_epoch()]
        self._translated = valid.part(chosen)
        self._loss = self._devices.compile(lambda p, b: make_loss(model)(p, b, 0.0, NO_DROPOUT))
        greedy = dataclasses.replace(config.decode, method="greedy")
        self._translator = Translator([model], prepared.tokenizers, greedy, devices=self._devices)

    def __call__(self, params: Any) -> tuple[dict[str, float], list[dict[str, str]]]:
        """Loss (nats per token) and BLEU, and some of the translations.

        These are `SAMPLES` of the same sentences each time, evenly spread over those translated,
        as {"source": …, "reference": …, "translation": …}.
        """
        sources, references = zip(*self._translated.pairs, strict=True)
        losses = [self._sums(params, batches) for batches in self._batches]
        best = first_best(self._translator.translate([params], sources))
        loss, tokens = map(sum, zip(*losses, strict=True))
        metrics = {"loss": float(loss / tokens), "bleu": self._bleu(best, references)}
        if len(self._corpora) > 1:
            for name, (loss, tokens) in zip(self._corpora, losses, strict=True):
                pairs = zip(best, references, self._translated.origins, strict=True)
                own = [(text, reference) for text, reference, origin in pairs if origin == name]
                if tokens:
                    metrics[f"loss/{name}"] = float(loss / tokens)
                if own:
                    metrics[f"bleu/{name}"] = self._bleu(*zip(*own, strict=True))
        shown = np.unique(np.linspace(0, len(best) - 1, SAMPLES).round().astype(int))
        samples = [
            {"source": sources[n], "reference": references[n], "translation": best[n]}
            for n in shown
        ]
        return metrics, samples

    def _sums(self, params: Any, batches: Sequence[Batch]) -> tuple[Any, Any]:
        """The sum of the losses of all target tokens of `batches`, and how many these are."""
        sums = [jax.device_get(self._loss(params, self._put(batch))) for batch in batches]
        return sum(s for s, _ in sums), sum(counts["target_tokens"] for _, counts in sums)

    def _bleu(self, translations: Sequence[str], references: Sequence[str]) -> float:
        return corpus_bleu(translations, references, target_language=self._target_language)

    def _put(self, batch: Batch) -> Batch:
        # Rows of padding fill it up to what the devices divide.
        rows = self._devices.round_up(len(batch["row"])) - len(batch["row"])
        pad = lambda x: np.pad(x, ((0, rows), *[(0, 0)] * (x.ndim - 1)))  # noqa: E731
        return {name: self._devices.put(pad(x)) for name, x in batch.items()}
