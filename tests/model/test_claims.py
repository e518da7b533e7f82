"""The claims of "Attention Is All You Need" (Vaswani et al. 2017) about the model: a test for each.

Here:
  3.1    Source and target may have any two lengths.
  3.1    Inference reads its own output and never the reference.
  3.2.3  Training sees no future token: the gradient is exactly zero.
  3.2.3  Encoder–decoder attention has its queries from the same block's masked self-attention, its
         keys and values from the encoder's output.
  3.5    A model trained on short sentences accepts longer ones than it has ever seen.

Elsewhere in tests/:
  3.1    Post-norm and residuals, and pre-norm:
         model/test_transformer.py::test_logits_against_numpy
  3.2.1  The softmax's rows sum to 1, and masked entries are exactly 0:
         functional/test_attention.py::test_rows_sum_to_one_and_masked_entries_are_exactly_zero
  3.2.2  Heads are matrix products, concatenated, through one linear layer:
         functional/test_attention.py::test_heads_are_matmuls_concatenated_through_one_linear_layer
  3.3    The feed-forward network is position-wise:
         functional/test_layers.py::test_feed_forward_is_position_wise
  3.4    Embeddings are times √d_model, and the softmax is tied to them:
         functional/test_layers.py::test_embed_scales_by_root_d_model
         functional/test_layers.py::test_logits_are_tied_to_the_table_and_float32
  3.5    The sinusoids are the formula; PE(pos + k) is R(k) PE(pos), whatever pos is:
         functional/test_positions.py::test_sinusoids_are_the_formula
         functional/test_positions.py::test_position_rotation_is_the_linear_function_of_the_article
         functional/test_positions.py::test_one_rotation_serves_every_position
  5.1    The decoder reads <bos> and the target, and predicts the target and <eos>:
         data/test_dataset.py::test_a_batch_decodes_back_to_its_pairs
  5.3    Adam, and its learning rate:
         training/test_optimizer.py::test_inverse_sqrt_schedule
         training/test_optimizer.py::test_first_three_updates_of_adam
  5.4    Label smoothing; dropout:
         functional/test_losses.py::test_against_the_whole_distribution
         functional/test_layers.py::test_dropout_rate_and_expectation
  6.1    Checkpoints are averaged; beam search, its penalty, and at most so many tokens:
         workdir/test_checkpoints.py::test_average_is_the_mean_of_the_last_few
         inference/test_search.py::test_exhaustive_beam_search_is_enumeration
         inference/test_search.py::test_length_normalizer_forms
         inference/test_translator.py::test_greedy_is_what_the_whole_model_finds
  Table 3  The number of parameters; d_k and d_v that differ, learned positions:
         model/test_transformer.py::test_number_of_parameters
         model/test_transformer.py::test_logits_against_numpy
"""

import dataclasses
import inspect
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import config_of, evaluate, json_lines

from transformer_jax.config.options import BOS_ID, PAD_ID, Config, ModelConfig
from transformer_jax.data import corpora, held_out
from transformer_jax.data.packing import pack
from transformer_jax.data.tokens import TokenizedPairs
from transformer_jax.inference.batch_search import search_batch
from transformer_jax.model.transformer import Transformer
from transformer_jax.training.step import create_state, make_train_step

V = 23
MODEL = ModelConfig(num_layers=2, d_model=14, d_ff=11, num_heads=3, d_key=5, d_value=7)


def test_every_test_named_above_exists():
    named = re.findall(r"(\S+\.py)::(test_\w+)", __doc__)
    assert len(named) > 15
    for file, test in named:
        text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
        assert f"\ndef {test}(" in text, (file, test)


def tokens(seed, *shape):
    """Ids that are neither padding nor special."""
    return np.random.default_rng(seed).integers(4, V, shape).astype(np.int32)


def make_state(config):
    return create_state(Config(model=config), Transformer(config, V))


def batch_of(source_length, *target_lengths):
    """One row of as many pairs."""
    ends = np.cumsum([0, *target_lengths])
    starts = np.arange(len(ends)) * source_length
    pairs = TokenizedPairs(tokens(1, starts[-1]), tokens(2, ends[-1]), starts, ends)
    lengths = {"source_row_length": starts[-1], "target_row_length": ends[-1] + 2}
    return pack(pairs, [np.arange(len(target_lengths))], **lengths) | {"row": np.arange(1)}


# --- Section 3.2.3: what a position may see. ---


@pytest.mark.fast
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_training_sees_no_future_token(norm):
    """The loss at t follows the targets before t, and with exactly zero gradient none after."""
    config = dataclasses.replace(MODEL, norm=norm, positions="learned", max_positions=19)
    params = make_state(config).params
    length, room = 7, 2
    batch = batch_of(5, length)
    (labels,), (decoder_input,) = batch["labels"], batch["decoder_input"]
    assert (labels[length:] == PAD_ID).all()
    np.testing.assert_array_equal(decoder_input[:length], [BOS_ID, *labels[: length - 1]])

    @jax.jit
    @jax.jacrev
    def jacobian(positions):
        """How the losses [T] follow what is added to the embedding of each position."""
        logits = Transformer(config, V).apply(
            {"params": {**params, **positions}},
            *(batch[name] for name in ("source_tokens", "decoder_input")),
            *(batch[f"{side}_segments"] for side in ("source", "target")),
            *(batch[f"{side}_positions"] for side in ("source", "target")),
        )
        return -jax.nn.log_softmax(logits[0])[jnp.arange(length + room), labels]

    names = ("source_positions", "target_positions")
    found = jacobian({name: params[name] for name in names})
    by_source, by_target = (np.abs(found[name]).max(-1)[:length] for name in names)
    assert (by_source[:, :5] > 1e-6).all()
    for t, other in np.ndindex(length, length):
        # Position `other` of the input is the target before `other`.
        assert (by_target[t, other] == 0) == (other > t), (t, other)


def test_cross_attention_has_queries_from_its_block_and_the_rest_from_the_encoder():
    seen = {}

    def record(next_function, args, kwargs, context):
        output = next_function(*args, **kwargs)
        seen[".".join((*context.module.path, context.method_name))] = args, output
        return output

    source, target = tokens(1, 2, 5), tokens(2, 2, 7)
    with nn.intercept_methods(record):
        Transformer(MODEL, V).apply({"params": make_state(MODEL).params}, source, target)
    encoded = seen["encode"][1]
    for layer in ("decoder_0", "decoder_1"):
        (query_side, memory, *_), _ = seen[f"{layer}.cross_attention.__call__"]
        after_self_attention = seen[f"{layer}.self_attention_residual.after"][1]
        np.testing.assert_array_equal(query_side, after_self_attention)
        np.testing.assert_array_equal(memory, encoded)


# --- Sections 3.1 and 3.5: lengths. ---


@pytest.mark.parametrize(("source_length", "target_length"), [(1, 7), (11, 1), (3, 7), (11, 5)])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_source_and_target_may_have_any_two_lengths(norm, source_length, target_length):
    config = dataclasses.replace(MODEL, norm=norm)
    logits = jax.eval_shape(
        lambda: Transformer(config, V).apply(
            {"params": make_state(config).params},
            jnp.ones((2, source_length), int),
            jnp.ones((2, target_length), int),
        )
    )
    assert logits.shape == (2, target_length, V)


def test_a_model_trained_on_20_tokens_accepts_21_and_200():
    config = Config(model=dataclasses.replace(MODEL, num_layers=1))
    model = Transformer(config.model, V)
    step = jax.jit(make_train_step(config, model))
    state, _ = step(make_state(config.model), batch_of(20, 18))  # and two of padding

    run = jax.jit(lambda source, target: model.apply({"params": state.params}, source, target))
    source, target = tokens(1, 1, 200), tokens(2, 1, 200)
    long, short = run(source, target), run(source, target[:, :21])
    assert long.shape == (1, 200, V)
    assert np.isfinite(long).all()
    np.testing.assert_allclose(long[:, :21], short, atol=1e-5)
    # Positions never seen are told apart: another order of their tokens predicts something else.
    order = np.arange(200)
    order[[150, 170]] = 170, 150
    for reordered in ((source[:, order], target), (source, target[:, order])):
        assert np.abs(run(*reordered)[0, -1] - long[0, -1]).max() > 1e-4


# --- Section 3.1: "consuming the previously generated symbols as additional input". ---


def test_inference_has_no_access_to_the_reference():
    """There is no argument to give it by: `prefix` is how a user wants a translation to begin."""
    inputs = {"self", "source_tokens", "max_length", "beam_size"}
    assert inspect.signature(Transformer.start_decoding).parameters.keys() == inputs
    inputs = {"self", "memory", "cache", "tokens"}
    assert inspect.signature(Transformer.decode_step).parameters.keys() == inputs
    inputs = {"models", "decode", "params", "source_tokens", "prefix", "row_ids", "rng"}
    assert inspect.signature(search_batch).parameters.keys() == inputs | {"n_best", "loop"}


def test_other_references_leave_translations_as_they_are(workdir, monkeypatch):
    sources = ["我有一只猫", "他是老师。", "她"]
    references = [["I have a cat", "He is a teacher.", "She"], ["I see", "No", "She has three."]]
    found = []
    for texts in references:
        split = corpora.Corpus(list(zip(sources, texts, strict=True)), 0)
        monkeypatch.setattr(held_out, "load_split", lambda *_, split=split: (split, None))
        evaluate(config_of(workdir), workdir, split="test", weights="average")
        rows = json_lines(workdir / "evaluation/test/translations.jsonl")
        assert [row["reference"] for row in rows] == texts
        found.append([row["translation"] for row in rows])
    assert found[0] == found[1] and any(found[0])
