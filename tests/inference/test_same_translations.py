"""A thousand sentences have the same translations, whether they leave their batch or not."""

import dataclasses

import jax
import pytest
from launching import tiny_config
from toy import MODEL, random_params, tokenizers

import transformer_jax as tj
from transformer_jax.config.options import EOS_ID, DecodeConfig
from transformer_jax.data.small_world import grammar
from transformer_jax.inference import batch_search, translator
from transformer_jax.inference.batch_search import BatchSearch, search_batch
from transformer_jax.model.transformer import Transformer

SENTENCES = 1000


class OneProgram:
    """What `BatchSearch` does, of whole batches."""

    def __init__(self, models, decode, devices):
        def run(params, *arrays, key_data, n_best):
            rng = jax.random.wrap_key_data(key_data)
            return search_batch(models, decode, params, *arrays, rng, n_best=n_best)

        self._run = jax.jit(run)

    def __call__(self, params, *arrays, n_best):
        *arrays, key_data = arrays
        return jax.device_get(self._run(tuple(params), *arrays, key_data=key_data, n_best=n_best))


class Leaving(BatchSearch):
    """Counts the programs that make batches smaller."""

    fewer = 0

    def __init__(self, models, decode, devices):
        super().__init__(models, decode, devices)
        resize = self._resize

        def counted(state, rows, *, room):
            self.fewer += len(rows) < len(state.active)
            return resize(state, rows, room=room)

        self._resize = counted


def trained_a_little(folder):
    """A post-norm model that writes sentences of many lengths."""
    size = {"model.d_model": 32, "model.d_ff": 64, "data.train_size": 3000, "data.batch_rows": 16}
    steps = {"steps": 150, "checkpoint_every": 150, "evaluate_every": 0, "log_every": 100}
    options = size | {f"train.{name}": value for name, value in steps.items()}
    model = tj.train(tiny_config(options | {"optimizer.warmup_steps": 50}), folder).model
    return model.transformer, model.tokenizers, model.params


def random_toy(folder):
    """A pre-norm one, of whose translations some end far before their batch's others."""
    both = tokenizers()
    size = both.target.vocab_size
    model = Transformer(dataclasses.replace(MODEL, norm="pre", num_layers=2), size)
    params = random_params(model, stddev=1.0)
    params["embedding"][EOS_ID] *= 1.1
    return model, both, params


@pytest.mark.slow
@pytest.mark.parametrize("make", [trained_a_little, random_toy])
def test_sentences_that_leave_their_batch_are_translated_as_in_it(make, tmp_path, monkeypatch):
    model, both, params = make(tmp_path)
    texts = list(dict.fromkeys(zh for zh, _ in grammar.pairs("train", size=9000)))[-SENTENCES:]
    assert len(texts) == SENTENCES
    monkeypatch.setattr(batch_search, "FEWEST_ROWS", 1)  # a batch of four ends with all its rows
    for method in ("beam", "greedy"):
        decode, found = DecodeConfig(method=method, beam_size=4, batch_size=16, extra_length=7), []
        for search in (OneProgram, Leaving):
            monkeypatch.setattr(translator, "BatchSearch", search)
            one = translator.Translator([model], both, decode)
            rows = one.translate([params], texts, n_best=1)
            found.append([[(h.text, h.ids) for h in row] for row in rows])
        assert one._search.fewer > 1, "or the test would prove nothing"
        differing = [pair for pair in zip(*found, strict=True) if pair[0] != pair[1]]
        assert not differing, (method, len(differing), differing[0])
        lengths = {len(row[0][1]) for row in found[0]}
        assert len(lengths) > 5
