"""One step, and the loop: what is computed, what decides it, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import assert_same_bits, search

import transformer_jax as tj
from transformer_jax.config.options import EOS_ID, PAD_ID
from transformer_jax.data.packing import pack
from transformer_jax.data.tokens import TokenizedPairs
from transformer_jax.model.layers import NO_DROPOUT, Dropout
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.loop import run_steps
from transformer_jax.training.step import create_state, make_loss, make_train_step

V = 19
CONFIG = tj.Config(
    seed=3,
    model=tj.ModelConfig(
        **{"num_layers": 1, "d_model": 6, "d_ff": 11, "num_heads": 2},
        **{"dropout_rate": 0.3, "attention_dropout_rate": 0.2},
    ),
    data=tj.DataConfig(source_row_length=7, target_row_length=5, batch_rows=6),
    optimizer=tj.OptimizerConfig(warmup_steps=10, clip_norm=1.0),
)
MODEL = Transformer(CONFIG.model, V)


def make_batch(pairs, rows, source_row_length, target_row_length):
    """A batch of (source ids, target ids), packed into rows as `rows` numbers them."""
    flat = [np.concatenate([pair[side] for pair in pairs]) for side in (0, 1)]
    ends = [np.cumsum([len(pair[side]) for pair in pairs]) for side in (0, 1)]
    tokens = TokenizedPairs(*flat, *(np.concatenate([[0], e]) for e in ends))
    lengths = {"source_row_length": source_row_length, "target_row_length": target_row_length}
    batch = pack(tokens, [np.array(row, np.int64) for row in rows], **lengths)
    return batch | {"row": np.arange(len(rows), dtype=np.int32)}


def random_batch(seed):
    """Six rows, of 1 to 5 target tokens: their padding is unequal."""
    rng = np.random.default_rng(seed)
    pairs = [[rng.integers(4, V, rng.integers(2, 8)), rng.integers(4, V, t)] for t in range(1, 6)]
    pairs.append([rng.integers(4, V, 3), rng.integers(4, V, 2)])
    return make_batch(pairs, [[i] for i in range(6)], 7, 5)


BATCHES = [random_batch(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def state():
    return create_state(CONFIG, MODEL)


@pytest.fixture(scope="module")
def traces():
    """Grows by one whenever `train_step` is traced."""
    return []


@pytest.fixture(scope="module")
def train_step(traces):
    step = make_train_step(CONFIG, MODEL)

    def counted(state, batch):
        traces.append(1)
        return step(state, batch)

    return jax.jit(counted)


@pytest.fixture(scope="module")
def accumulating_step():
    """Of three micro-batches, with 3, 7 and 7 target tokens."""
    config = dataclasses.replace(CONFIG, train=tj.TrainConfig(accumulate=3))
    return jax.jit(make_train_step(config, MODEL))


@pytest.fixture(scope="module")
def value_and_grad():
    """Compiled (params, batch) -> ((loss sum, counts), gradients), without dropout."""
    loss = make_loss(MODEL)
    return jax.jit(jax.value_and_grad(lambda p, b: loss(p, b, 0.1, NO_DROPOUT), has_aux=True))


def run(state, train_step, batches):
    losses = []
    for batch in batches:
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


def set_hyperparameters(state, **values):
    now = state.hyperparameters
    values = {name: jnp.asarray(v, getattr(now, name).dtype) for name, v in values.items()}
    return state.replace(hyperparameters=now.replace(**values))


def first_moment(opt_state):
    """Adam's, which after one step is 0.1 of the clipped gradient."""
    return next(s.mu for s in opt_state if hasattr(s, "mu"))


def differ(a, b):
    return any((x != y).any() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- One step. ---


@pytest.mark.parametrize("r_drop", [None, 0.7])
def test_the_loss_in_chunks_is_the_loss(state, r_drop):
    """T = 5: five chunks of one position in each row, or all at once."""

    def value_and_grad(chunk):
        loss = make_loss(MODEL, chunk=chunk)
        dropout = Dropout(jax.random.split(jax.random.key(0), 6), 0.3)
        function = jax.value_and_grad(lambda p: loss(p, BATCHES[0], 0.1, dropout, r_drop)[0])
        text = jax.jit(function).lower(state.params).as_text()
        return jax.jit(function)(state.params), f"6x5x{V}x" in text

    (expected, gradients), whole = value_and_grad(None)
    (found, in_chunks), cut = value_and_grad(6)
    assert (whole, cut) == (True, False)  # whether logits of all positions exist
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), in_chunks, gradients
    )


@pytest.mark.fast
def test_one_compilation_for_all_steps_and_values(state, train_step, traces):
    run(state, train_step, BATCHES[:3])
    assert len(traces) == 1
    changed = {"label_smoothing": 0.0, "dropout_rate": 0.5, "warmup_steps": 2, "beta1": 0.5}
    changed |= {"seed": 8, "clip_norm": 9.0, "learning_rate_scale": 2.0}
    other = set_hyperparameters(state, **changed)
    assert run(other, train_step, BATCHES[:3])[1] != run(state, train_step, BATCHES[:3])[1]
    assert len(traces) == 1


def test_step_divides_by_the_tokens_of_the_whole_batch(state, accumulating_step, value_and_grad):
    """By hand from single rows: never a mean of means."""
    off = {"dropout_rate": 0, "attention_dropout_rate": 0, "clip_norm": 1e9}
    after, metrics = accumulating_step(set_hyperparameters(state, **off), BATCHES[0])
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], BATCHES[0]) for i in range(6)]
    alone = [value_and_grad(state.params, row) for row in rows]
    counts = [(row["labels"] != PAD_ID).sum() for row in rows]
    assert counts == [1, 2, 3, 4, 5, 2]
    loss = sum(value[0] for value, _ in alone) / 17
    gradient = jax.tree.map(lambda *rows: sum(rows) / 17, *(grad for _, grad in alone))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-5)
    assert metrics["target_tokens"] == 17
    assert metrics["source_tokens"] == (BATCHES[0]["source_tokens"] != PAD_ID).sum()
    jax.tree.map(
        lambda m, g: np.testing.assert_allclose(m, 0.1 * g, rtol=1e-4, atol=1e-7),
        first_moment(after.opt_state),
        gradient,
    )
    # Not the same as the mean of the micro-batches' means, nor of the rows'.
    of_means = np.mean([value[0] / n for (value, _), n in zip(alone, counts, strict=True)])
    assert abs(of_means - loss) > 1e-3


@pytest.mark.fast
def test_accumulation_equals_the_whole_batch(state, train_step, accumulating_step):
    """With dropout, and with unequal padding."""
    whole, whole_metrics = train_step(state, BATCHES[0])
    parts, metrics = accumulating_step(state, BATCHES[0])
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        first_moment(parts.opt_state),
        first_moment(whole.opt_state),
    )


R_DROP = dataclasses.replace(CONFIG, train=tj.TrainConfig(r_drop=5.0))


def test_r_drop_is_two_predictions_and_their_divergence_by_hand(state):
    """Liang et al. 2021, halved; the second masks have keys of their own."""
    after, metrics = jax.jit(make_train_step(R_DROP, MODEL))(
        create_state(R_DROP, MODEL), BATCHES[0]
    )
    root = jax.random.fold_in(jax.random.key(CONFIG.seed), 0)
    first = jnp.stack([jax.random.fold_in(root, row) for row in range(6)])
    second = jax.vmap(jax.random.fold_in, (0, None))(first, 2)
    labels, real = BATCHES[0]["labels"], BATCHES[0]["labels"] != PAD_ID
    smoothed = 0.9 * np.eye(V)[labels] + 0.1 / V
    names = ("source_tokens", "decoder_input", "source_segments", "target_segments")
    inputs = [BATCHES[0][name] for name in (*names, "source_positions", "target_positions")]
    log_probs, cross_entropies = [], []
    for keys in (first, second):
        dropout = Dropout(keys, 0.3, 0.2)
        logits = MODEL.apply({"params": state.params}, *inputs, dropout=dropout)
        x = np.asarray(logits, np.float64)
        log_probs.append(x - np.log(np.exp(x).sum(-1, keepdims=True)))
        cross_entropies.append(-(smoothed * log_probs[-1]).sum(-1)[real].sum())
    p, q = map(np.exp, log_probs)
    divergences = [(p * (log_probs[0] - log_probs[1])), (q * (log_probs[1] - log_probs[0]))]
    kl = [x.sum(-1)[real].sum() for x in divergences]
    paper = sum(cross_entropies) + 5 * sum(kl) / 2
    np.testing.assert_allclose(metrics["loss"], paper / 2 / 17, rtol=1e-5)
    assert metrics["target_tokens"] == 17 and min(kl) > 0.1
    assert float(metrics["gradient_norm"]) > 0 and int(after.step) == 1


def test_r_drop_over_micro_batches_equals_the_whole_batch():
    parts = dataclasses.replace(R_DROP, train=tj.TrainConfig(r_drop=5.0, accumulate=3))
    found = [
        jax.jit(make_train_step(config, MODEL))(create_state(config, MODEL), BATCHES[0])[1]
        for config in (R_DROP, parts)
    ]
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-6)


def test_without_r_drop_the_step_predicts_once(state):
    """The program has half of the products, and no second keys."""
    count = lambda config, state: (  # noqa: E731
        jax.jit(make_train_step(config, MODEL)).lower(state, BATCHES[0]).as_text().count("dot_gen")
    )
    once, twice = count(CONFIG, state), count(R_DROP, create_state(R_DROP, MODEL))
    assert once > 0 and 2 * once - 10 <= twice


def test_what_is_frozen_stays_and_has_no_moments():
    """The rest learns what it learns otherwise."""
    model = dataclasses.replace(CONFIG, optimizer=tj.OptimizerConfig(warmup_steps=10))
    frozen = dataclasses.replace(model, train=tj.TrainConfig(frozen="encoder|embedding"))
    (free, free_metrics), (found, metrics) = (
        jax.jit(make_train_step(config, MODEL))(create_state(config, MODEL), BATCHES[0])
        for config in (model, frozen)
    )
    start, moments = create_state(frozen, MODEL), first_moment(found.opt_state.inner_state)
    for part, after in found.params.items():
        if "encoder" in part or part == "embedding":
            assert_same_bits(after, start.params[part])
            assert not jax.tree.leaves(moments[part])
        else:
            assert differ(after, start.params[part])
            assert len(jax.tree.leaves(moments[part])) == len(jax.tree.leaves(after))
            for x, y in zip(*map(jax.tree.leaves, (after, free.params[part])), strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
    assert metrics["loss"] == free_metrics["loss"]
    assert 0 < metrics["gradient_norm"] < free_metrics["gradient_norm"]
    decayed = dataclasses.replace(frozen, optimizer=tj.OptimizerConfig(weight_decay=0.5))
    after, _ = jax.jit(make_train_step(decayed, MODEL))(start, BATCHES[1])
    assert_same_bits(after.params["embedding"], start.params["embedding"])


# --- Randomness: (seed, step, row), and nothing else. ---


@pytest.mark.fast
def test_seed_step_and_row_decide_every_bit(state, train_step):
    again = create_state(CONFIG, MODEL)
    assert_same_bits(run(again, train_step, BATCHES[:3]), run(state, train_step, BATCHES[:3]))
    other = create_state(dataclasses.replace(CONFIG, seed=4), MODEL)
    assert differ(other.params, state.params)
    batch = BATCHES[0]

    def loss(state, batch):
        return float(train_step(state, batch)[1]["loss"])

    base = loss(state, batch)
    assert loss(set_hyperparameters(state, seed=4), batch) != base
    assert loss(state.replace(step=state.step + 1), batch) != base
    assert loss(state, batch | {"row": batch["row"] + 1}) != base
    order = np.array([4, 0, 5, 1, 3, 2])
    reordered = jax.tree.map(lambda x: x[order], batch)
    np.testing.assert_allclose(loss(state, reordered), base, rtol=1e-6)


# --- The loop. ---


def loop(state, train_step, batches, *, num_steps, first_step=0, **options):
    """`run_steps`, keeping what it reports: (state, {step: metrics})."""
    read = {}
    defaults = {
        "on_metrics": lambda step, metrics: read.__setitem__(step, metrics),
        "pauses_at": lambda step: False,
        "on_pause": lambda step, state: None,
    }
    steps = {"first_step": first_step, "num_steps": num_steps}
    return run_steps(state, train_step, iter(batches), **steps, **(defaults | options)), read


def test_resumed_run_equals_an_uninterrupted_one(state, train_step):
    straight, losses = loop(state, train_step, BATCHES, num_steps=6)
    half, first = loop(state, train_step, BATCHES[:3], num_steps=3)
    saved = jax.tree.map(np.asarray, jax.device_get(half))
    rest, second = loop(saved, train_step, BATCHES[3:], first_step=3, num_steps=6)
    assert int(straight.step) == 6
    assert_same_bits(rest, straight)
    assert first | second == losses
    assert list(losses) == [1, 2, 3, 4, 5, 6]


@pytest.mark.fast
def test_metrics_are_read_one_step_late():
    events = []

    class Value:
        """A number on a device: reading it waits."""

        def __init__(self, step):
            self.step = step

        def __float__(self):
            if events[-1] != ("read", self.step):
                events.append(("read", self.step))
            return 1.0

    def fake_step(state, batch):
        events.append(("dispatch", batch))
        return state + 1, {"loss": Value(batch), "gradient_norm": Value(batch)}

    steps = [1, 2, 3, 4, 5]
    pause = {"pauses_at": lambda step: step == 3}
    pause["on_pause"] = lambda step, state: events.append(("pause", state))
    state, read = loop(0, fake_step, steps, num_steps=5, **pause)
    assert events == [
        *(("dispatch", 1), ("dispatch", 2), ("read", 1), ("dispatch", 3), ("read", 2)),
        *(("read", 3), ("pause", 3)),  # nothing is in flight during a pause
        *(("dispatch", 4), ("dispatch", 5), ("read", 4), ("read", 5)),
    ]
    assert (state, list(read)) == (5, steps)


@pytest.mark.parametrize("part", ["params", "opt_state"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_step(state, train_step, part):
    """It is skipped: what it read stays, to the bit, and the next batch is its own."""

    def poison(tree):
        return jax.tree.map(lambda x: x * np.nan if x.dtype == jnp.float32 else x, tree)

    poisoned = state.replace(**{part: poison(getattr(state, part))})
    before = jax.tree.map(np.asarray, jax.device_get(poisoned))
    after, metrics = train_step(poisoned, BATCHES[0])
    assert not np.isfinite(metrics["update_norm"])
    assert int(after.step) == int(before.step) + 1
    assert_same_bits(after.replace(step=before.step), before)


def test_the_update_norm_and_the_learning_rate_of_a_step(state, train_step):
    before = jax.tree.map(np.asarray, jax.device_get(state.params))
    after, metrics = train_step(state, BATCHES[0])
    change = [
        np.asarray(a) - b
        for a, b in zip(*map(jax.tree.leaves, (after.params, before)), strict=True)
    ]
    norm = np.sqrt(sum((c.astype(np.float64) ** 2).sum() for c in change))
    assert float(metrics["update_norm"]) == pytest.approx(norm, rel=1e-3) and norm > 0
    for step, batch in enumerate(BATCHES[:2], start=1):
        state, metrics = train_step(state, batch)
        np.testing.assert_allclose(metrics["learning_rate"], 6**-0.5 * step * 10**-1.5, rtol=1e-6)
        assert state.step == step


# --- It learns. ---


def reversals(rng, count, *, held_out):
    """Sequences of 3 to 7 tokens and their reversals; a fifth of all sequences is held out."""
    pairs = []
    while len(pairs) < count:
        ids = rng.integers(4, 12, rng.integers(3, 8))
        if (ids.sum() % 5 == 0) == held_out:
            pairs.append(([*ids, EOS_ID], [*ids[::-1], EOS_ID]))
    return pairs


def test_learns_to_reverse_sequences():
    steps, rows = 500, 13
    schedule = {"schedule": "cosine", "learning_rate_scale": 5e-3, "warmup_steps": 50}
    config = tj.Config(
        model=tj.ModelConfig(num_layers=1, d_model=32, d_ff=64, num_heads=4, dropout_rate=0.0),
        optimizer=tj.OptimizerConfig(label_smoothing=0.0, **schedule),
        train=tj.TrainConfig(steps=steps),
    )
    model = Transformer(config.model, 12)
    rng = np.random.default_rng(0)

    def batches():
        while True:
            pairs = reversals(rng, 3 * rows, held_out=False)
            yield make_batch(pairs, np.arange(3 * rows).reshape(rows, 3), 24, 24)

    step = jax.jit(make_train_step(config, model), donate_argnums=0)
    state, read = loop(create_state(config, model), step, batches(), num_steps=steps)
    assert read[steps]["loss"] < 0.05 < read[1]["loss"]

    pairs = reversals(rng, 211, held_out=True)
    source = make_batch(pairs, np.arange(211)[:, None], 8, 8)["source_tokens"]
    found = search(model, state.params, source, method="greedy", extra_length=2)
    exact = [
        found.tokens[row, 0, : found.length[row, 0]].tolist() == target
        for row, (_, target) in enumerate(pairs)
    ]
    assert np.mean(exact) >= 0.99
