"""The model against a numpy Transformer, and the properties that any Transformer has."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from transformer_jax.config.options import BOS_ID, PAD_ID, Config, ModelConfig
from transformer_jax.data.packing import pack
from transformer_jax.data.tokens import TokenizedPairs
from transformer_jax.model.layers import NO_DROPOUT
from transformer_jax.model.transformer import Transformer, grow_cache
from transformer_jax.training.step import create_state, make_loss

V, D, F, N, H, HV = 23, 14, 11, 3, 5, 7
POST = ModelConfig(
    num_layers=2, d_model=D, d_ff=F, num_heads=N, d_key=H, d_value=HV, layer_norm_epsilon=1e-3
)
LEARNED = dataclasses.replace(POST, positions="learned", max_positions=19)
PRE = dataclasses.replace(POST, norm="pre", attention_bias=True, sinusoid_layout="halves")
PRE_LEARNED = dataclasses.replace(LEARNED, norm="pre")
DEEP_ENCODER = dataclasses.replace(POST, num_encoder_layers=3, num_decoder_layers=1)
DEEP_DECODER = dataclasses.replace(PRE, num_decoder_layers=3)
CONFIGS = {
    **{"post": POST, "learned": LEARNED, "pre-bias-halves": PRE, "pre-learned": PRE_LEARNED},
    **{"deep encoder": DEEP_ENCODER, "deep decoder": DEEP_DECODER},
}


def tokens(seed, *shape):
    """Ids that are neither padding nor special."""
    return np.random.default_rng(seed).integers(4, V, shape).astype(np.int32)


@functools.cache
def params_of(name):
    """Parameters of which none is 0; scales are about 1."""
    params = toy.random_params(Transformer(CONFIGS[name], V), stddev=0.3)
    return jax.tree_util.tree_map_with_path(lambda path, x: x + (path[-1].key == "scale"), params)


@functools.cache
def apply(name):
    """Compiled model(params, source_tokens, decoder_input) -> logits."""
    return jax.jit(
        lambda params, *args: Transformer(CONFIGS[name], V).apply({"params": params}, *args)
    )


def sentences():
    """Source [2, 5] and decoder input [2, 7], of which the second row is padded by 2 and 3."""
    source, target = tokens(1, 2, 5), tokens(2, 2, 7)
    target[:, 0] = BOS_ID
    source[1, 3:], target[1, 4:] = PAD_ID, PAD_ID
    return source, target


# --- The same model once more, in float64, one sentence at a time, after the article. ---


def np_norm(p, x, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def np_attention(p, x, memory, allowed):
    heads = []
    for n in range(N):
        bias = {w: p.get(f"{w}_bias", np.zeros((N, 1)))[n] for w in ("query", "key", "value")}
        query = x @ p["query_kernel"][:, n] + bias["query"]
        key = memory @ p["key_kernel"][:, n] + bias["key"]
        value = memory @ p["value_kernel"][:, n] + bias["value"]
        exps = np.exp(query @ key.T / np.sqrt(H)) * allowed
        heads.append(exps / exps.sum(-1, keepdims=True) @ value)
    kernel = p["output_kernel"].reshape(N * HV, D)
    return np.concatenate(heads, -1) @ kernel + p.get("output_bias", 0)


def np_feed_forward(p, x):
    return np.maximum(x @ p["w1"] + p["b1"], 0) @ p["w2"] + p["b2"]


def np_transformer(config, params, source, target):
    """Logits [T, V] of one sentence without padding."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    norm = functools.partial(np_norm, epsilon=config.layer_norm_epsilon)
    pre = config.norm == "pre"

    def embedded(ids, side):
        if config.positions == "learned":
            position = params[f"{side}_positions"][: len(ids)]
        else:
            angle = np.arange(len(ids))[:, None] / 10000 ** (np.arange(0, D, 2) / D)
            pair = [np.sin(angle), np.cos(angle)]
            halves = np.concatenate(pair, -1)
            interleaved = np.stack(pair, -1).reshape(len(ids), D)
            position = halves if config.sinusoid_layout == "halves" else interleaved
        return params["embedding"][ids] * np.sqrt(D) + position

    def sub_layer(p, name, x, function):
        scales = p[f"{name}_residual"]["norm"]
        if pre:
            return x + function(p[name], norm(scales, x))
        return norm(scales, x + function(p[name], x))

    x = embedded(source, "source")
    for i in range(config.num_encoder_layers or config.num_layers):
        p = params[f"encoder_{i}"]
        x = sub_layer(p, "self_attention", x, lambda p, y: np_attention(p, y, y, 1))
        x = sub_layer(p, "feed_forward", x, np_feed_forward)
    encoded = norm(params["encoder_norm"], x) if pre else x
    x, past = embedded(target, "target"), np.tril(np.ones((len(target),) * 2))
    for i in range(config.num_decoder_layers or config.num_layers):
        p = params[f"decoder_{i}"]
        x = sub_layer(p, "self_attention", x, lambda p, y: np_attention(p, y, y, past))
        # Q from the masked self-attention of this block; K and V from the encoder's output.
        x = sub_layer(p, "cross_attention", x, lambda p, y: np_attention(p, y, encoded, 1))
        x = sub_layer(p, "feed_forward", x, np_feed_forward)
    x = norm(params["decoder_norm"], x) if pre else x
    return x @ params["embedding"].T


@pytest.mark.fast
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_against_numpy(name):
    source, target = sentences()
    params = params_of(name)
    logits = apply(name)(params, source, target)
    assert logits.dtype == jnp.float32
    for row, (s, t) in enumerate([(5, 7), (3, 4)]):
        expected = np_transformer(CONFIGS[name], params, source[row, :s], target[row, :t])
        np.testing.assert_allclose(logits[row, :t], expected, atol=3e-5)


# --- What a position may see; more of it in test_claims.py. ---


def test_future_target_tokens_change_no_bit():
    source, target = tokens(1, 2, 5), tokens(2, 2, 7)
    run, params = apply("post"), params_of("post")
    logits = run(params, source, target)
    for t in (1, 4, 6):
        changed = np.concatenate([target[:, :t], tokens(9, 2, 7)[:, t:]], axis=1)
        other = run(params, source, changed)
        np.testing.assert_array_equal(other[:, :t], logits[:, :t])
        assert (other[:, t:] != logits[:, t:]).any(-1).all()


def test_encoder_sees_the_whole_source():
    source, params = tokens(1, 1, 5), params_of("learned")

    @jax.jit
    @jax.jacrev
    def jacobian(positions):
        variables = {"params": {**params, "source_positions": positions}}
        encoded = Transformer(LEARNED, V).apply(variables, source, method="encode")
        return encoded[0, :, 0]

    jac = np.abs(jacobian(jnp.asarray(params["source_positions"]))).max(-1)
    assert (jac[:, :5] > 1e-6).all()
    assert (jac[:, 5:] == 0).all()


def test_padding_changes_nothing():
    source, target = tokens(1, 2, 5), tokens(2, 2, 7)
    run, params = apply("post"), params_of("post")
    padded = [np.pad(x, ((0, 0), (0, more))) for x, more in ((source, 6), (target, 4))]
    assert PAD_ID == 0
    logits = run(params, source, target)
    np.testing.assert_allclose(run(params, *padded)[:, :7], logits, atol=3e-6)


@pytest.fixture(scope="module")
def pairs():
    """Five pairs of unequal lengths, as the dataset keeps them."""
    source_lengths, target_lengths = [5, 2, 4, 7, 3], [3, 4, 2, 5, 6]
    offsets = [np.concatenate([[0], np.cumsum(x)]) for x in (source_lengths, target_lengths)]
    return TokenizedPairs(tokens(1, offsets[0][-1]), tokens(2, offsets[1][-1]), *offsets)


def test_packing_changes_nothing(pairs):
    model = Transformer(dataclasses.replace(LEARNED, num_layers=1), V)
    loss = jax.jit(jax.value_and_grad(make_loss(model), has_aux=True))
    params = {k: v for k, v in params_of("learned").items() if not k.endswith("coder_1")}

    def of(rows, source_length, target_length):
        lengths = {"source_row_length": source_length, "target_row_length": target_length}
        batch = pack(pairs, [np.array(row, np.int64) for row in rows], **lengths)
        return loss(params, batch, 0.1, NO_DROPOUT)

    (packed_sum, packed_counts), packed_grads = of([[0, 2, 1], [4, 3], []], 13, 12)
    (alone_sum, alone_counts), alone_grads = of([[0], [1], [2], [3], [4]], 8, 7)
    np.testing.assert_allclose(packed_sum, alone_sum, rtol=1e-5)
    assert packed_counts == alone_counts == {"target_tokens": 20, "source_tokens": 21}

    def assert_close(packed, alone):
        assert np.linalg.norm(packed - alone) <= 1e-5 * np.linalg.norm(alone)

    jax.tree.map(assert_close, packed_grads, alone_grads)


# --- One token at a time. ---


@pytest.mark.parametrize(
    ("name", "beam_size"),
    [("post", 1), ("post", 3), ("learned", 3), ("pre-bias-halves", 3), ("pre-learned", 1)],
)
def test_cached_decoding_equals_the_whole_target_at_once(name, beam_size):
    """With a padded source, and a cache that grows beyond the target."""
    length = 7
    source, params = sentences()[0], params_of(name)
    target = tokens(3, 2 * beam_size, length)
    target[:, 0] = BOS_ID
    whole = apply(name)(params, np.repeat(source, beam_size, axis=0), target)
    model = Transformer(CONFIGS[name], V)

    options = {"max_length": 3, "beam_size": beam_size, "method": "start_decoding"}
    memory, cache = model.apply({"params": params}, source, **options)
    step = jax.jit(functools.partial(model.apply, method="decode_step"))
    assert memory["layer_0"]["key"].shape == (2, N, 5, H)  # once for all beams
    assert cache["layer_1"]["value"].shape == (2 * beam_size, N, 3, HV)
    for t in range(length):
        if t == 3:
            cache = grow_cache(cache, 11)
        logits, cache = step({"params": params}, memory, cache, target[:, t])
        assert logits.dtype == jnp.float32
        np.testing.assert_allclose(logits, whole[:, t], atol=1e-5)
    assert cache["position"] == length


# --- Parameters. ---


@pytest.mark.fast
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ModelConfig(), 63_045_632),
        (ModelConfig(d_model=1024, d_ff=4096, num_heads=16), 214_171_648),
    ],
    ids=["base", "big"],
)
def test_number_of_parameters(config, expected):
    model = Transformer(config, 37_000)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.ones((1, 1), int), jnp.ones((1, 1), int))
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == expected


def test_initialisation():
    config = dataclasses.replace(LEARNED, d_ff=47, attention_bias=True, max_positions=101)
    params = create_state(Config(model=config), Transformer(config, 499)).params
    layer = params["decoder_1"]
    fans = {
        "query_kernel": (D, N * H),
        "key_kernel": (D, N * H),
        "value_kernel": (D, N * HV),
        "output_kernel": (N * HV, D),
    }
    attention = {name: layer["cross_attention"][name] for name in fans}
    kernels = attention | {name: layer["feed_forward"][name] for name in ("w1", "w2")}
    for name, kernel in kernels.items():
        bound = np.sqrt(6 / sum(fans.get(name, (D, 47))))  # Glorot & Bengio 2010, equation 16
        assert 0.95 * bound < np.abs(kernel).max() <= bound, name
        assert abs(np.std(kernel) / (bound / np.sqrt(3)) - 1) < 0.15, name
        assert abs(np.mean(kernel)) < 5 * bound / np.sqrt(3 * kernel.size), name
    for name in ("embedding", "source_positions", "target_positions"):
        table = params[name]
        error = np.std(table) * np.sqrt(D) - 1
        assert abs(error) < 5 / np.sqrt(2 * table.size), name
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "scale":
            assert (x == 1).all()
        elif path[-1].key.endswith("bias") or path[-1].key in ("b1", "b2"):
            assert (x == 0).all()
