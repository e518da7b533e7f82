"""How a model does on the validation split, while it trains."""

import dataclasses
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
    """Loss and greedy BLEU on the validation split; compiled at its first call."""

    def __init__(self, prepared: Prepared) -> None:
        config, model = prepared.config, prepared.model
        self._target_language = config.data.target_language
        self._pairs = prepared.valid.pairs[: config.train.evaluate_sentences or None]
        self._devices, self._batches = (
            prepared.devices.data_parallel,
            prepared.validation.one_epoch(),
        )
        self._loss = self._devices.compile(lambda p, b: make_loss(model)(p, b, 0.0, NO_DROPOUT))
        greedy = dataclasses.replace(config.decode, method="greedy")
        self._translator = Translator([model], prepared.tokenizers, greedy, devices=self._devices)

    def __call__(self, params: Any) -> tuple[dict[str, float], list[dict[str, str]]]:
        """Loss (nats per token) and BLEU, and some of the translations.

        These are `SAMPLES` of the same sentences each time, evenly spread over those translated,
        as {"source": …, "reference": …, "translation": …}.
        """
        sums = [jax.device_get(self._loss(params, self._put(batch))) for batch in self._batches]
        loss = sum(s for s, _ in sums) / sum(counts["target_tokens"] for _, counts in sums)
        sources, references = zip(*self._pairs, strict=True)
        best = first_best(self._translator.translate([params], sources))
        bleu = corpus_bleu(best, references, target_language=self._target_language)
        shown = np.unique(np.linspace(0, len(best) - 1, SAMPLES).round().astype(int))
        samples = [
            {"source": sources[n], "reference": references[n], "translation": best[n]}
            for n in shown
        ]
        return {"loss": float(loss), "bleu": bleu}, samples

    def _put(self, batch: Batch) -> Batch:
        # Rows of padding fill it up to what the devices divide.
        rows = self._devices.round_up(len(batch["row"])) - len(batch["row"])
        pad = lambda x: np.pad(x, ((0, rows), *[(0, 0)] * (x.ndim - 1)))  # noqa: E731
        return {name: self._devices.put(pad(x)) for name, x in batch.items()}
