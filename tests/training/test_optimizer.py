"""Schedules against their closed forms; Adam against its equations written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from launching import refused

from transformer_jax.training.optimizer import (
    adam,
    cosine_schedule,
    inverse_sqrt_schedule,
    trained,
)

D_MODEL, WARMUP, SCALE = 512, 4000, 1.5
BETA1, BETA2, EPSILON = 0.9, 0.98, 1e-9  # section 5.3
SHAPES = {"a": (2, 3), "b": (5,)}


PEAK = SCALE / np.sqrt(D_MODEL * WARMUP)


@pytest.mark.fast
def test_inverse_sqrt_schedule():
    def rate(step):
        return inverse_sqrt_schedule(step, d_model=D_MODEL, warmup_steps=WARMUP, scale=SCALE)

    expected = {1: PEAK / WARMUP, WARMUP // 2: PEAK / 2, WARMUP: PEAK, 4 * WARMUP: PEAK / 2}
    np.testing.assert_allclose(
        [rate(step) for step in expected], list(expected.values()), rtol=1e-6
    )
    paper = inverse_sqrt_schedule(WARMUP, d_model=D_MODEL, warmup_steps=WARMUP)
    np.testing.assert_allclose(paper, 6.987712e-4, rtol=1e-6)
    assert rate(1).dtype == jnp.float32


def test_cosine_schedule():
    options = {"num_steps": 100, "warmup_steps": 20, "scale": SCALE}
    shares = {0: 0, 5: 1 / 4, 20: 1, 40: (1 + np.sqrt(0.5)) / 2, 60: 1 / 2, 100: 0, 200: 0}
    found = [cosine_schedule(step, **options) for step in shares]
    expected = [SCALE * share for share in shares.values()]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("schedule", "options", "ratio"),
    [
        (cosine_schedule, {"num_steps": 100}, 1),
        (inverse_sqrt_schedule, {"d_model": D_MODEL}, np.sqrt(2)),
    ],
)
def test_schedules_take_traced_numbers(schedule, options, ratio):
    traces = []

    @jax.jit
    def rate(step, warmup_steps, scale):
        traces.append(step)
        return schedule(step, warmup_steps=warmup_steps, scale=scale, **options)

    peaks = [rate(jnp.int32(w), jnp.float32(w), jnp.float32(SCALE)) for w in (5, 10)]
    assert len(traces) == 1
    np.testing.assert_allclose(peaks[0] / peaks[1], ratio, rtol=1e-6)


def adam_by_hand(gradients, learning_rate, clip_norm=np.inf):
    """Kingma & Ba 2015, algorithm 1: the update of each step."""
    first = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    second = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    updates = []
    for t, gradient in enumerate(gradients, start=1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        update = {}
        for name, g in gradient.items():
            g = g * min(1, clip_norm / norm)
            first[name] = BETA1 * first[name] + (1 - BETA1) * g
            second[name] = BETA2 * second[name] + (1 - BETA2) * g**2
            m, v = first[name] / (1 - BETA1**t), second[name] / (1 - BETA2**t)
            update[name] = -learning_rate * m / (np.sqrt(v) + EPSILON)
        updates.append(update)
    return updates


@pytest.mark.fast
@pytest.mark.parametrize("clip_norm", [None, 2.0])
def test_first_three_updates_of_adam(clip_norm):
    rng = np.random.default_rng(0)
    # Norms of about 0.03, 30 and 3: the first is below clip_norm.
    draw = lambda shape, size: (rng.standard_normal(shape) * size).astype(np.float32)  # noqa: E731
    gradients = [{n: draw(shape, size) for n, shape in SHAPES.items()} for size in (0.01, 10, 1)]
    options = {"beta1": BETA1, "beta2": BETA2, "epsilon": EPSILON, "clip_norm": clip_norm}
    optimizer = adam(learning_rate=0.01, **options)
    state = optimizer.init({name: jnp.zeros(shape) for name, shape in SHAPES.items()})
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state) if x.ndim)
    expected = adam_by_hand(gradients, 0.01, clip_norm or np.inf)
    for gradient, by_hand in zip(gradients, expected, strict=True):
        updates, state = optimizer.update(gradient, state)
        for name in SHAPES:
            np.testing.assert_allclose(updates[name], by_hand[name], rtol=1e-4, atol=1e-8)


def test_first_update_is_the_learning_rate_in_the_direction_of_the_sign():
    gradient = {"a": jnp.array([[3.0, -0.01, 1e-4]])}
    optimizer = adam(learning_rate=0.01, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)
    updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    params = optax.apply_updates({"a": jnp.ones((1, 3))}, updates)
    np.testing.assert_allclose(params["a"], [[0.99, 1.01, 0.99]], rtol=1e-4)


def test_weight_decay_is_apart_from_the_moments_and_spares_vectors():
    """Loshchilov & Hutter 2019, algorithm 2, line 12, whose schedule multiplier is the rate."""
    rng = np.random.default_rng(5)
    params, *gradients = [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
        for _ in range(4)
    ]
    plain = adam_by_hand(gradients, 0.1)
    options = {"beta1": BETA1, "beta2": BETA2, "epsilon": EPSILON, "weight_decay": 0.03}
    optimizer = adam(learning_rate=0.1, **options)
    state = optimizer.init(params)
    for gradient, expected in zip(gradients, plain, strict=True):
        updates, state = optimizer.update(gradient, state, params)
        decayed = expected["a"] - 0.1 * 0.03 * params["a"]
        np.testing.assert_allclose(updates["a"], decayed, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(updates["b"], expected["b"], rtol=1e-4, atol=1e-7)
        params = optax.apply_updates(params, updates)


PATHS = {"encoder_0": {"w1": 0, "norm": {"scale": 0}}, "decoder_0": {"w1": 0}, "embedding": 0}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder|embedding", [True, False, False, False]),
        ("^decoder_0/w1$", [False, True, True, True]),
        ("norm/scale", [True, True, False, True]),
    ],
)
def test_what_a_pattern_freezes(pattern, expected):
    assert jax.tree.leaves(trained(PATHS, pattern)) == expected


@pytest.mark.parametrize(("pattern", "which"), [("encoder_1", "no"), ("coder|emb", "every")])
def test_a_pattern_that_freezes_nothing_or_everything(pattern, which):
    message = refused(trained, PATHS, pattern)
    assert message.startswith(f"train.frozen='{pattern}' matches {which} parameter: ")
    assert message.endswith(" decoder_0, embedding, encoder_0")
