"""Half precision, memory, fused attention and random numbers, in the model and its training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import search

import transformer_jax as tj
from transformer_jax.config.checks import check_config
from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID
from transformer_jax.errors import UserError
from transformer_jax.functional.fused_attention import splash_attention
from transformer_jax.model import layers
from transformer_jax.model.layers import NO_DROPOUT, Dropout
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.step import create_state, make_loss, make_train_step

V = 19
MODEL = tj.ModelConfig(
    num_layers=1, d_model=14, d_ff=23, num_heads=2, attention_bias=True, logits_bias=True
)
HALF = dataclasses.replace(MODEL, compute_dtype="bfloat16")


def packed_batch(rows, source_length, target_length, *, seed=0):
    """Two random pairs in each row, of 2/5 and 1/2 of its length; then padding."""
    rng = np.random.default_rng(seed)
    batch = {"row": np.arange(rows, dtype=np.int32)}
    for side, length in (("source", source_length), ("target", target_length)):
        first, second = length * 2 // 5, length // 2
        segment = np.repeat([1, 2, 0], [first, second, length - first - second])
        position = np.concatenate([np.arange(n) for n in np.bincount(segment)[[1, 2, 0]]])
        batch[f"{side}_segments"] = np.tile(segment.astype(np.int32), (rows, 1))
        batch[f"{side}_positions"] = np.tile(position.astype(np.int32), (rows, 1))
    for name, segment in (("source_tokens", "source"), ("decoder_input", "target")):
        real = batch[f"{segment}_segments"] != 0
        batch[name] = np.where(real, rng.integers(4, V, real.shape), PAD_ID).astype(np.int32)
    batch["labels"] = np.roll(batch["decoder_input"], -1, axis=1)
    return batch


def create_params(config, seed=0):
    return create_state(tj.Config(seed=seed, model=config), Transformer(config, V)).params


def loss_of(config, batch, dropout=NO_DROPOUT):
    loss = make_loss(Transformer(config, V), fused=True)
    return lambda params: loss(params, batch, 0.1, dropout)[0]


# --- bfloat16. ---


def equations(jaxpr):
    """Those of a jaxpr and of every jaxpr in it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


FLOAT32_ONLY = {"exp", "log", "log1p", "rsqrt", "sqrt", "div", "reduce_sum", "reduce_max", "pow"}


def dtypes_of(equation):
    dtypes = {x.aval.dtype for x in equation.invars}
    return {dtype.name for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_only_matmuls_and_sums_of_two_are_bfloat16(norm):
    """In the whole training step: softmax, statistics, loss, biases' gradients, the optimiser."""
    model = dataclasses.replace(HALF, norm=norm, dropout_rate=0.1, attention_dropout_rate=0.1)
    config = tj.Config(model=model, optimizer=tj.OptimizerConfig(clip_norm=1.0))
    transformer = Transformer(model, V)
    state = jax.eval_shape(lambda: create_state(config, transformer))
    step = make_train_step(config, transformer)
    after, metrics = jax.eval_shape(step, state, packed_batch(2, 11, 13))
    kept = jax.tree.leaves((after.params, after.opt_state, metrics))
    assert {x.dtype.name for x in kept if jnp.issubdtype(x.dtype, jnp.floating)} == {"float32"}
    closed = jax.make_jaxpr(step)(state, packed_batch(2, 11, 13))
    seen = [(e.primitive.name, dtypes_of(e)) for e in equations(closed.jaxpr)]
    names = {name for name, dtypes in seen if dtypes == {"float32"}}
    assert names >= FLOAT32_ONLY - {"log1p", "pow"}
    for name, dtypes in seen:
        assert name not in FLOAT32_ONLY or "bfloat16" not in dtypes, name
    # Both operands of every matmul of the forward pass are bfloat16.
    forward = jax.make_jaxpr(loss_of(model, packed_batch(2, 11, 13)))(state.params)
    matmuls = [e for e in equations(forward.jaxpr) if e.primitive.name == "dot_general"]
    assert len(matmuls) == 8 + 14 + 1  # a layer's of the encoder, of the decoder, and the logits
    assert all(dtypes_of(e) == {"bfloat16"} for e in matmuls)
    # What they give is rounded, except scores, of three attentions, and logits.
    assert sum(e.outvars[0].aval.dtype == jnp.float32 for e in matmuls) == 3 + 1


def test_half_precision_gradients_over_many_positions():
    """A bias's gradient is a sum over all of them, here 3,000, which bfloat16 would stop adding."""
    batch = packed_batch(128, 29, 31)
    params = create_params(MODEL)
    exact = jax.jit(jax.grad(loss_of(MODEL, batch)))(params)
    half = jax.jit(jax.grad(loss_of(HALF, batch)))(params)

    def check(path, x, y):
        name = path[-1].key
        if name == "key_bias":
            return  # what is added to all keys alike changes no softmax: 0, but rounding
        error = np.linalg.norm(x - y) / np.linalg.norm(y)
        # Nearly uniform attention depends little on its queries: their gradients are differences.
        assert error < (0.05 if name.startswith("query") else 0.02), (path, error)

    jax.tree_util.tree_map_with_path(check, half, exact)


@functools.cache
def learned(compute_dtype):
    """(losses, params) of 120 steps on 12 pairs, by heart."""
    sizes = {"d_model": 16, "d_ff": 32, "dropout_rate": 0.0}
    model = dataclasses.replace(MODEL, compute_dtype=compute_dtype, **sizes)
    schedule = {"schedule": "cosine", "learning_rate_scale": 1e-2, "warmup_steps": 20}
    optimizer = tj.OptimizerConfig(label_smoothing=0.0, **schedule)
    config = tj.Config(model=model, optimizer=optimizer, train=tj.TrainConfig(steps=120))
    transformer = Transformer(model, V)
    state = create_state(config, transformer)
    step = jax.jit(make_train_step(config, transformer))
    losses = []
    for _ in range(120):
        state, metrics = step(state, by_heart())
        losses.append(float(metrics["loss"]))
    return losses, transformer, state.params


def by_heart():
    rng = np.random.default_rng(0)
    source = rng.integers(4, V, (12, 5)).astype(np.int32)
    labels = np.concatenate([source[:, ::-1], np.full((12, 1), EOS_ID)], 1).astype(np.int32)
    decoder_input = np.concatenate([np.full((12, 1), BOS_ID), labels[:, :-1]], 1).astype(np.int32)
    batch = {"source_tokens": source, "decoder_input": decoder_input, "labels": labels}
    for side, x in (("source", source), ("target", labels)):
        batch[f"{side}_segments"] = np.ones_like(x)
        batch[f"{side}_positions"] = np.tile(np.arange(x.shape[1], dtype=np.int32), (12, 1))
    return batch | {"row": np.arange(12, dtype=np.int32)}


def test_half_precision_learns_as_well():
    exact, half = learned("float32")[0], learned("bfloat16")[0]
    assert exact[0] > 2.5
    assert exact[-1] < 0.1
    assert half != exact
    assert abs(half[0] / exact[0] - 1) < 0.01
    assert half[-1] < 1.5 * exact[-1]


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_half_precision_translates_what_it_learned(method):
    _, transformer, params = learned("bfloat16")
    batch = by_heart()
    found = search(transformer, params, batch["source_tokens"], method=method, extra_length=2)
    np.testing.assert_array_equal(found.tokens[:, 0, :6], batch["labels"])


def starting(transformer, params, source, max_length):
    """(encoded memory and empty cache, compiled decode_step)."""
    options = {"max_length": max_length, "method": "start_decoding"}
    begun = transformer.apply({"params": params}, source, **options)
    step = jax.jit(functools.partial(transformer.apply, method="decode_step"))
    return begun, functools.partial(step, {"params": params})


def test_half_precision_cached_decoding_equals_the_whole_target_at_once():
    transformer, params = Transformer(HALF, V), create_params(HALF)
    batch = packed_batch(3, 11, 13)
    source, target = batch["source_tokens"], batch["decoder_input"]
    whole = transformer.apply({"params": params}, source, target)
    (memory, cache), step = starting(transformer, params, source, 17)
    kept = {x.dtype.name for x in jax.tree.leaves((memory, cache))}
    assert kept == {"bfloat16", "bool", "int32"}
    for t in range(13 * 9 // 10):  # up to the padding
        logits, cache = step(memory, cache, target[:, t])
        assert logits.dtype == jnp.float32
        np.testing.assert_allclose(logits, whole[:, t], atol=0.03)


# --- remat. ---

REMAT = dataclasses.replace(MODEL, remat=True)


def assert_same_loss_and_gradients(configs, params, batch, dropout, *, rtol, atol):
    (loss, gradients), (expected, others) = (
        jax.jit(jax.value_and_grad(loss_of(config, batch, dropout)))(params) for config in configs
    )
    np.testing.assert_allclose(loss, expected, rtol=rtol)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), gradients, others)


def test_remat_changes_neither_loss_nor_gradients_nor_names():
    batch, params = packed_batch(3, 11, 13), create_params(MODEL)
    jax.tree.map(np.testing.assert_array_equal, create_params(REMAT), params)
    dropout = Dropout(jax.random.split(jax.random.key(1), 3), 0.3, 0.2)
    assert_same_loss_and_gradients((REMAT, MODEL), params, batch, dropout, rtol=1e-6, atol=2e-5)


def test_remat_keeps_what_enters_a_layer_and_no_more():
    batch = packed_batch(3, 29, 31)
    shapes = jax.eval_shape(lambda: create_params(MODEL))
    parameters = {x.shape for x in jax.tree.leaves(shapes)}

    def kept(config, num_layers):
        """Bytes for the gradient, apart from parameters."""
        config = dataclasses.replace(config, num_layers=num_layers)
        shapes = jax.eval_shape(lambda: create_params(config))
        backward = jax.eval_shape(lambda p: jax.vjp(loss_of(config, batch), p)[1], shapes)
        leaves = [x for x in jax.tree.leaves(backward) if x.shape not in parameters]
        return sum(x.size * x.dtype.itemsize for x in leaves)

    per_layer = kept(MODEL, 3) - kept(MODEL, 2)
    per_layer_remat = kept(REMAT, 3) - kept(REMAT, 2)
    # x of both sides in float32, and for each layer of the decoder a reference to the same encoded.
    entering = 3 * MODEL.d_model * 4 * (29 + 31)
    assert per_layer_remat <= entering + 3 * MODEL.d_model * 4 * 29
    assert per_layer > 10 * per_layer_remat


def test_remat_decodes():
    source, params = packed_batch(3, 11, 13)["source_tokens"], create_params(MODEL)
    results = []
    for config in (REMAT, MODEL):
        begun, step = starting(Transformer(config, V), params, source, 3)
        results.append(step(*begun, jnp.full(3, BOS_ID)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), *results)


# --- Fused attention. ---

SPLASH = dataclasses.replace(MODEL, attention="splash")


@pytest.mark.parametrize("remat", [False, True])
def test_a_model_with_fused_attention_equals_one_with_the_plain_function(monkeypatch, remat):
    calls = []

    def interpreted(*args):
        calls.append(args[-1].causal)
        return splash_attention(*args, interpret=True)

    monkeypatch.setitem(layers.FUSED, "splash", interpreted)
    batch, fused = packed_batch(2, 128, 256), dataclasses.replace(SPLASH, remat=remat)
    plain = dataclasses.replace(fused, attention="xla")
    params = create_params(fused)
    assert not calls  # initialisation, of one token, does not use it
    dropout = Dropout(jax.random.split(jax.random.key(1), 2), 0.3)
    assert_same_loss_and_gradients((fused, plain), params, batch, dropout, rtol=1e-5, atol=1e-3)
    # In the encoder, in the decoder over its own past, and over the source.
    assert calls[:3] == [False, True, False]


def test_translation_scoring_and_validation_take_the_plain_function():
    """On a machine where the fused one cannot run."""
    assert jax.default_backend() == "cpu"
    transformer, params = Transformer(SPLASH, V), create_params(SPLASH)
    plain = Transformer(dataclasses.replace(SPLASH, attention="xla"), V)
    batch = packed_batch(3, 11, 13)
    sentences = batch["source_tokens"], batch["decoder_input"]
    scored = [model.apply({"params": params}, *sentences) for model in (transformer, plain)]
    np.testing.assert_array_equal(*scored)
    validated = [make_loss(model)(params, batch, 0.0, NO_DROPOUT) for model in (transformer, plain)]
    jax.tree.map(np.testing.assert_array_equal, *validated)
    begun, step = starting(transformer, params, sentences[0], 2)
    step(*begun, jnp.full(3, BOS_ID))


def test_the_training_step_takes_the_fused_function(monkeypatch):
    calls = []

    def recorded(query, key, value, mask):
        calls.append((query.shape, key.shape, mask.causal))
        return jnp.zeros((*query.shape[:3], value.shape[-1]), value.dtype)

    monkeypatch.setitem(layers.FUSED, "splash", recorded)
    config = tj.Config(model=SPLASH)
    transformer = Transformer(SPLASH, V)
    state = jax.eval_shape(lambda: create_state(config, transformer))
    step = make_train_step(config, transformer)
    jax.eval_shape(step, state, packed_batch(3, 11, 13))
    source, target = (3, 11, 2, 7), (3, 13, 2, 7)
    assert calls == [(source, source, False), (target, target, True), (target, source, False)]


def test_fused_attention_drops_no_weights_silently():
    batch, params = packed_batch(2, 128, 128), create_params(SPLASH)
    rngs = jax.random.split(jax.random.key(1), 2)
    with pytest.raises(ValueError, match="'splash' has no attention dropout"):
        loss_of(SPLASH, batch, Dropout(rngs, 0.1, 0.1))(params)


FITTING = {"attention": "cudnn", "compute_dtype": "bfloat16"}
BLOCKS = {"attention": "splash"}
LONG_ROWS = tj.DataConfig(source_row_length=128, target_row_length=256)


@pytest.mark.parametrize(
    ("model", "others", "message"),
    [
        (FITTING | {"attention_dropout_rate": 0.1}, {}, "model.attention_dropout_rate=0.1 to 0"),
        ({"attention": "cudnn"}, {}, "model.compute_dtype=bfloat16, not float32"),
        (FITTING | {"d_key": 32}, {}, "32 and 64 wide"),
        (FITTING | {"num_heads": 2}, {}, "256 and 256 wide"),
        (FITTING, {"data": tj.DataConfig(source_row_length=63)}, "source_row_length=63 .* by 2"),
        (BLOCKS, {}, "source_row_length=64 divisible by 128"),
        (BLOCKS, {"parallel": tj.ParallelConfig(strategy="mesh")}, "cannot be sharded over a mesh"),
        (FITTING, {}, None),
        (BLOCKS | {"d_key": 5, "d_value": 7}, {"data": LONG_ROWS}, None),
    ],
)
def test_options_that_fused_attention_can_and_cannot_do(model, others, message):
    config = tj.Config(model=tj.ModelConfig(**model), **others)
    if message is None:
        check_config(config)
        return
    with pytest.raises(UserError, match=f"model.attention='{model['attention']}'.*{message}"):
        check_config(config)


# --- Random numbers. ---


@functools.cache
def first_step(rng_name):
    """(config, state, compiled step, the state and the metrics after one step)."""
    model = dataclasses.replace(MODEL, dropout_rate=0.3, attention_dropout_rate=0.2)
    config = tj.Config(seed=5, model=model, train=tj.TrainConfig(rng=rng_name))
    transformer = Transformer(model, V)
    state = create_state(config, transformer)
    step = jax.jit(make_train_step(config, transformer))
    return config, state, step, *step(state, packed_batch(3, 11, 13))


def test_threefry_draws_the_masks_of_seed_step_and_row():
    """By hand from jax's default keys: the loss is the same to the last bits."""
    batch = packed_batch(3, 11, 13)
    config, state, *_, metrics = first_step("threefry")
    key = jax.random.fold_in(jax.random.key(5), 0)
    rngs = jnp.stack([jax.random.fold_in(key, row) for row in range(3)])
    loss = loss_of(config.model, batch, Dropout(rngs, 0.3, 0.2))
    tokens = (batch["labels"] != PAD_ID).sum()
    np.testing.assert_allclose(metrics["loss"], jax.jit(loss)(state.params) / tokens, rtol=1e-6)


def test_rbg_draws_others_and_initialises_alike():
    _, expected_state, _, expected_after, expected = first_step("threefry")
    _, state, step, after, metrics = first_step("rbg")
    jax.tree.map(np.testing.assert_array_equal, state.params, expected_state.params)
    assert abs(metrics["loss"] - expected["loss"]) > 1e-3
    changed = jax.tree.map(lambda x, y: (x != y).any(), after.params, expected_after.params)
    assert all(jax.tree.leaves(changed))
    _, again = step(state, packed_batch(3, 11, 13))
    assert again["loss"] == metrics["loss"]
