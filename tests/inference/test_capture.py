"""What `Model.inside` hands out is what the pure functions give, called by hand."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import toy

from transformer_jax import Config, DecodeConfig, ModelConfig
from transformer_jax.config.options import BOS_ID, EOS_ID
from transformer_jax.functional import attention, layers, masks, positions
from transformer_jax.inference.batch_search import search_batch
from transformer_jax.inference.capture import Capture
from transformer_jax.inference.record import AddNorm, Attention, FeedForward
from transformer_jax.model import layers as layers_of_model
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.step import create_state, make_train_step

D, F, N, H, HV, POSITIONS = 14, 19, 7, 3, 5, 31
SENTENCE, TARGET = "我有一只猫", "She has a dog"
IDS = tuple(toy.tokenizers().target.encode([TARGET])[0])
SEGMENTED = ("segments", "positions")
KINDS = {
    "paper": {},
    "pre-norm, learned positions": {"norm": "pre", "positions": "learned"},
    "biases, as in Marian": {
        **{"attention_bias": True, "logits_bias": True},
        **{"sinusoid_layout": "halves", "activation": "swish"},
    },
    "remat": {"remat": True, "norm": "pre"},
}


def build(**options):
    config = ModelConfig(d_model=D, d_ff=F, num_heads=N, d_key=H, d_value=HV)
    depths = {"num_encoder_layers": 2, "num_decoder_layers": 3, "max_positions": POSITIONS}
    model = Transformer(dataclasses.replace(config, **depths, **options), toy.VOCAB_SIZE)
    return model, toy.random_params(model)


def look(model, params, **options):
    capture = Capture(model, toy.tokenizers(), DecodeConfig(extra_length=7, beam_size=3))
    return capture.inside(params, [5], SENTENCE, TARGET, **options)


class ByHand:
    """The forward pass in pure functions, one sentence, no masks of padding."""

    def __init__(self, model, params):
        self.c, self.params, self.found = model.config, params, {}

    def embed(self, ids, side):
        c, p = self.c, self.params
        embedding = layers.embed(ids, p["embedding"], scale=c.scale_embeddings)
        where = np.arange(ids.shape[1])
        if c.positions == "learned":
            encoding = p[f"{side}_positions"][where]
        else:
            encoding = positions.sinusoidal_positions(where, D, layout=c.sinusoid_layout)
        return embedding, encoding, embedding + encoding

    def norm(self, x, p):
        return layers.layer_norm(x, p["scale"], p["bias"], epsilon=self.c.layer_norm_epsilon)

    def around(self, x, sublayer, p):
        """Residual and norm; yields what the sub-layer reads, and what comes out."""
        if self.c.norm == "pre":
            inner = sublayer(self.norm(x, p["norm"]))
            return AddNorm(x, inner.output, x + inner.output, p["norm"]), inner
        inner = sublayer(x)
        return AddNorm(x, inner.output, self.norm(x + inner.output, p["norm"]), p["norm"]), inner

    def attend(self, p, mask, encoded=None):
        def sublayer(x):
            memory = x if encoded is None else encoded
            q, k, v = (
                attention.split_heads(y, p[f"{name}_kernel"], p.get(f"{name}_bias"))
                for name, y in (("query", x), ("key", memory), ("value", memory))
            )
            weights = attention.attention_weights(q, k, mask)
            scores = np.einsum("btnh,bsnh->bnts", q, k)
            heads = attention.scaled_dot_product_attention(q, k, v, mask)
            out = attention.merge_heads(heads, p["output_kernel"], p.get("output_bias"))
            parts = (x, memory, q, k, v, scores, scores / np.sqrt(H), mask[0], weights, heads, out)
            return Attention(*parts, p)

        return sublayer

    def feed(self, p):
        def sublayer(x):
            hidden = layers.ACTIVATIONS[self.c.activation](x @ p["w1"] + p["b1"])
            weights = (p["w1"], p["b1"], p["w2"], p["b2"])
            out = layers.feed_forward(x, *weights, activation=self.c.activation)
            return FeedForward(x, hidden, out, p)

        return sublayer

    def layer(self, x, p, mask, encoded=None):
        """Yields (name, record) of each sub-layer, and the output."""
        parts = [("self_attention", self.attend(p["self_attention"], mask))]
        if encoded is not None:
            see_all = np.ones((1, 1, x.shape[1], encoded.shape[1]), bool)
            parts.append(("cross_attention", self.attend(p["cross_attention"], see_all, encoded)))
        parts.append(("feed_forward", self.feed(p["feed_forward"])))
        found = {"input": x}
        for name, sublayer in parts:
            around, inner = self.around(x, sublayer, p[f"{name}_residual"])
            found[name], found[f"{name}_add_norm"] = inner, around
            x = around.output
        return found, x


def same(record, by_hand):
    """Every array of a record is that of another, whose arrays have a batch axis of one."""
    for field in dataclasses.fields(by_hand):
        ours, expected = getattr(record, field.name), getattr(by_hand, field.name)
        if field.name == "parameters":
            toy.assert_same_bits(ours, expected)
            continue
        assert ours.shape == expected[0].shape, field.name
        assert ours.dtype == (bool if field.name == "mask" else np.float32), field.name
        np.testing.assert_allclose(ours, expected[0], atol=2e-5, err_msg=field.name)


SLOW = ("remat", "biases, as in Marian")


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in KINDS]
)
def test_every_array_is_that_of_the_pure_functions(kind):
    model, params = build(**KINDS[kind])
    found, hand = look(model, params), ByHand(model, params)
    source = np.array([[*toy.tokenizers().source.encode([SENTENCE])[0], EOS_ID]])
    target = np.array([[BOS_ID, *IDS]])
    sides = {}
    for side, ids in (("source", source), ("target", target)):
        embedding, encoding, sides[side] = hand.embed(ids, side)
        ours = getattr(found, side)
        np.testing.assert_array_equal(ours.ids, ids[0])
        np.testing.assert_allclose(ours.embedding, embedding[0], atol=1e-6)
        np.testing.assert_allclose(ours.position, encoding, atol=1e-6)
        np.testing.assert_allclose(ours.sum, sides[side][0], atol=1e-6)
        assert len(ours.pieces) == ids.shape[1]

    x = sides["source"]
    for number, ours in enumerate(found.encoder):
        see_all = np.ones((1, 1, x.shape[1], x.shape[1]), bool)
        expected, x = hand.layer(x, params[f"encoder_{number}"], see_all)
        check_layer(ours, expected)
    assert number == 1
    encoded = hand.norm(x, params["encoder_norm"]) if model.config.norm == "pre" else x
    np.testing.assert_allclose(found.encoded, encoded[0], atol=2e-5)
    x = sides["target"]
    for number, ours in enumerate(found.decoder):
        causal = masks.causal_mask(x.shape[1])
        expected, x = hand.layer(x, params[f"decoder_{number}"], causal, encoded)
        check_layer(ours, expected)
    assert number == 2
    decoded = hand.norm(x, params["decoder_norm"]) if model.config.norm == "pre" else x
    np.testing.assert_allclose(found.decoded, decoded[0], atol=2e-5)
    logits = layers.logits(decoded, params["embedding"], params.get("logits_bias"))[0]
    check_prediction(found, np.asarray(logits))


def check_layer(ours, expected):
    assert {f.name for f in dataclasses.fields(ours)} == expected.keys()
    np.testing.assert_allclose(ours.input, expected.pop("input")[0], atol=2e-5)
    for name, by_hand in expected.items():
        same(getattr(ours, name), by_hand)


def check_prediction(found, logits):
    prediction, labels = found.prediction, np.array([*IDS, EOS_ID])
    np.testing.assert_allclose(prediction.logits, logits, atol=1e-4)
    probs = np.exp(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    best = np.argsort(-probs, axis=-1)[:, :10]
    np.testing.assert_array_equal(prediction.best_ids, best)
    np.testing.assert_allclose(prediction.best_probs, np.take_along_axis(probs, best, 1), rtol=1e-3)
    chosen = probs[np.arange(len(labels)), labels]
    np.testing.assert_allclose(prediction.chosen_probs, chosen, rtol=1e-3)
    assert found.loss == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
    vocabulary = toy.tokenizers().target.vocabulary
    assert prediction.best_pieces[2][0] == vocabulary[best[2, 0]]
    assert found.labels == (*(vocabulary[i] for i in IDS), "<eos>")
    assert found.target.pieces == ("<bos>", *found.labels[:-1])


def attentions(found):
    for layer in (*found.encoder, *found.decoder):
        yield layer.self_attention
    for layer in found.decoder:
        yield layer.cross_attention


def test_weights_are_distributions_masked_cells_exactly_zero_and_z_their_mean_of_values():
    found = look(*build())
    for seen in attentions(found):
        np.testing.assert_allclose(seen.weights.sum(-1), 1, atol=1e-6)
        assert np.all(seen.weights[:, ~seen.mask] == 0)
        assert np.all(seen.weights[:, seen.mask] > 0)
        for head, weights in enumerate(seen.weights):
            z = [
                sum(w * v for w, v in zip(row, seen.value[:, head], strict=True)) for row in weights
            ]
            np.testing.assert_allclose(seen.heads[:, head], z, atol=1e-5)
    for layer in found.decoder:
        np.testing.assert_array_equal(layer.self_attention.mask, np.tri(len(IDS) + 1, dtype=bool))
        assert layer.cross_attention.mask.all()


@pytest.mark.parametrize("kind", ["paper", "pre-norm, learned positions"])
def test_decoding_piece_by_piece_over_a_cache_computes_the_same(kind):
    model, params = build(**KINDS[kind])
    found = look(model, params)
    variables = {"params": params}
    source = np.array([found.source.ids])
    memory, cache = model.apply(variables, source, max_length=13, method="start_decoding")
    step = jax.jit(
        lambda *args: model.apply(variables, *args, method="decode_step", mutable=["intermediates"])
    )
    for position, token in enumerate(found.target.ids):
        (logits, cache), seen = step(memory, cache, np.array([token]))
        np.testing.assert_allclose(found.prediction.logits[position], logits[0], atol=1e-4)
        for number, layer in enumerate(found.decoder):
            sown = seen["intermediates"][f"decoder_{number}"]
            for name in ("self_attention", "cross_attention"):
                teacher_forced = getattr(layer, name)
                width = teacher_forced.weights.shape[-1]
                for array in ("scores", "weights"):
                    expected = getattr(teacher_forced, array)[:, position]
                    cells = teacher_forced.mask[position]  # of later pieces the cache knows nothing
                    one = np.asarray(sown[name][array][0])[0, :, 0, :width]
                    np.testing.assert_allclose(one[:, cells], expected[:, cells], atol=2e-5)
                one = sown[name]["heads"][0][0, 0]
                np.testing.assert_allclose(one, teacher_forced.heads[position], atol=2e-5)


def programs(model, params):
    """The lowered text of a training step and of each search."""
    config, ones = Config(model=model.config), np.ones((3, 11), np.int32)
    kinds = [f"{side}_{kind}" for side in ("source", "target") for kind in SEGMENTED]
    batch = dict.fromkeys(["source_tokens", "decoder_input", "labels", *kinds], ones)
    step = make_train_step(config, model)
    state = jax.eval_shape(lambda: create_state(config, model))
    texts = {"step": jax.jit(step).lower(state, batch | {"row": np.arange(3)}).as_text()}
    rest = ones, np.zeros_like(ones), np.arange(3), jax.random.key(0)
    for method in ("greedy", "beam"):
        decode = DecodeConfig(method=method, extra_length=2)
        search = functools.partial(search_batch, [model], decode)
        texts[method] = jax.jit(lambda p, s=search: s([p], *rest)).lower(params).as_text()
    return texts


@pytest.mark.parametrize("kind", ["paper", pytest.param("remat", marks=pytest.mark.slow)])
def test_nobody_who_does_not_ask_pays(kind, monkeypatch):
    """The programs that train and search are those of a model whose modules never sow."""
    model, params = build(**KINDS[kind])
    texts = programs(model, params)
    for module in (layers_of_model.Attention, layers_of_model.FeedForward):
        monkeypatch.setattr(module, "is_mutable_collection", lambda self, name: False)
        monkeypatch.setattr(module, "sow", None)
    assert programs(model, params) == texts
