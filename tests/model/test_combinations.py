"""Every combination of the options that decide the model's parts trains, and decodes what it is.

Nothing is jitted here: 48 programs would compile for four minutes, while operations run one by one
are compiled once for all models of the same sizes, which are few for that reason.
"""

import itertools

import jax
import numpy as np
import pytest
from toy import search

from transformer_jax.config.checks import check_config
from transformer_jax.config.options import BOS_ID, Config, DataConfig, ModelConfig
from transformer_jax.data.packing import pack
from transformer_jax.data.tokens import TokenizedPairs
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.step import create_state, make_train_step

ROWS = {"source_row_length": 11, "target_row_length": 13}
V, SOURCE_V = 17, 29  # of the target and of both; of the source when it has its own
SHARED = ("all", "source_target", "target_softmax", "none")
TABLES = {
    "all": {"embedding"},
    "source_target": {"embedding", "softmax"},
    "target_softmax": {"source_embedding", "target_embedding"},
    "none": {"source_embedding", "target_embedding", "softmax"},
}
COMBINATIONS = list(
    itertools.product(
        ("sinusoidal", "learned"),
        ("post", "pre"),
        [*((tied, V) for tied in SHARED), *((tied, SOURCE_V) for tied in SHARED[2:])],
        ((5, 5), (5, 7)),
    )
)


def pairs_in(combination):
    """Each two choices of a combination: what a pairwise covering array has to cover."""
    return set(itertools.combinations(enumerate(combination), 2))


def covering():
    """A few combinations that have every two choices between them, picked greedily."""
    left, chosen = set().union(*map(pairs_in, COMBINATIONS)), []
    while left:
        best = max(COMBINATIONS, key=lambda combination: len(left & pairs_in(combination)))
        chosen.append(best)
        left -= pairs_in(best)
    return chosen


@pytest.fixture(scope="module", autouse=True)
def one_by_one():
    with jax.disable_jit():
        yield


def tokens(seed, vocab_size, *shape):
    """Ids that are neither padding nor special."""
    return np.random.default_rng(seed).integers(4, vocab_size, shape).astype(np.int32)


def make_batch(source_vocab_size):
    """Three pairs packed into two rows, with padding."""
    ends = np.array([0, 5, 8, 12]), np.array([0, 4, 9, 11])
    pairs = TokenizedPairs(tokens(1, source_vocab_size, 12), tokens(2, V, 11), *ends)
    return pack(pairs, [[0, 1], [2]], **ROWS) | {"row": np.arange(2)}


def config_of(combination):
    positions, norm, (tied, source_vocab_size), (d_key, d_value) = combination
    sizes = {"num_layers": 1, "d_model": 6, "d_ff": 6, "num_heads": 3, "max_positions": V}
    widths = {"d_key": d_key, "d_value": d_value}
    parts = {"positions": positions, "norm": norm, "tied_embeddings": tied}
    data = DataConfig(shared_vocabulary=source_vocab_size == V, **ROWS)
    return check_config(Config(data=data, model=ModelConfig(**sizes, **widths, **parts)))


def name_of(combination):
    positions, norm, (tied, source_vocab_size), widths = combination
    vocabulary = "shared" if source_vocab_size == V else "apart"
    return f"{positions}-{norm}-{tied}-{vocabulary}-{'equal' if len(set(widths)) == 1 else 'wider'}"


def test_the_fast_ones_have_every_pair_of_choices():
    """Of 12 there have to be, for the six kinds of tables with the two widths."""
    assert len(set(map(name_of, COMBINATIONS))) == len(COMBINATIONS) == 48
    covered = set().union(*map(pairs_in, covering()))
    assert covered == set().union(*map(pairs_in, COMBINATIONS))
    assert len(covering()) <= 14


@pytest.mark.parametrize(
    "combination",
    [
        pytest.param(c, id=name_of(c), marks=[] if c in covering() else pytest.mark.slow)
        for c in COMBINATIONS
    ],
)
def test_trains_and_decodes(combination):
    config, source_vocab_size = config_of(combination), combination[2][1]
    model = Transformer(config.model, V, source_vocab_size)
    before = create_state(config, model)
    after, metrics = make_train_step(config, model)(before, make_batch(source_vocab_size))
    assert_has_its_parts(before.params, combination)
    assert np.isfinite(metrics["loss"])
    assert_everything_learned(before, after)

    # Two sentences, of which each has two hypotheses.
    variables, source = {"params": after.params}, tokens(3, source_vocab_size, 2, 4)

    def whole(targets):
        """Logits [4, T, V] of targets [4, T], all at once."""
        decoder_input = np.concatenate([np.full((4, 1), BOS_ID), targets[:, :-1]], axis=1)
        return np.asarray(model.apply(variables, np.repeat(source, 2, axis=0), decoder_input))

    targets = tokens(4, V, 4, 5)
    memory, cache = model.apply(
        variables, source, max_length=5, beam_size=2, method="start_decoding"
    )
    expected, last = whole(targets), np.full(4, BOS_ID)
    for t in range(3):
        logits, cache = model.apply(variables, memory, cache, last, method="decode_step")
        np.testing.assert_allclose(logits, expected[:, t], atol=1e-5)
        last = targets[:, t]

    # What the search reports of its hypotheses is what the model gives them as targets.
    found = search(model, after.params, source, beam_size=2, extra_length=1)
    assert found.tokens.shape == (2, 2, 5)
    assert np.isfinite(found.score).all()
    logits, chosen = whole(found.tokens.reshape(4, 5)), found.tokens.reshape(4, 5, 1)
    log_probs = np.take_along_axis(logits, chosen, -1)[..., 0] - np.log(np.exp(logits).sum(-1))
    real = np.arange(5) < found.length.reshape(4, 1)
    assert real.any(axis=1).all()
    np.testing.assert_allclose(found.token_log_probs.reshape(4, 5), log_probs * real, atol=1e-5)


def assert_has_its_parts(params, combination):
    positions, norm, (tied, source_vocab_size), (d_key, d_value) = combination
    layers = {"encoder_0", "decoder_0"}
    tables = set(TABLES[tied])
    learned = {"source_positions", "target_positions"} if positions == "learned" else set()
    norms = {"encoder_norm", "decoder_norm"} if norm == "pre" else set()
    assert params.keys() == layers | tables | learned | norms
    for name in tables:
        rows = source_vocab_size if name == "source_embedding" else V
        assert params[name].shape == (rows, 6)
    attention = params["decoder_0"]["cross_attention"]
    assert attention["key_kernel"].shape == (6, 3, d_key)
    assert attention["output_kernel"].shape == (3, d_value, 6)


def assert_everything_learned(before, after):
    """Each parameter moved, and by a gradient that is no rounding."""
    before, after = jax.device_get((before.params, after))
    (gradients,) = (s.mu for s in after.opt_state if hasattr(s, "mu"))  # times 0.1
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.linalg.norm(gradient) > 1e-5, path
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after.params)
    assert all(jax.tree.leaves(moved)), moved
