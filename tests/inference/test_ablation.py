"""What is switched off is off, and nothing else is."""

import numpy as np
import pytest
import toy
from launching import refused

from transformer_jax.config.options import DecodeConfig, ModelConfig
from transformer_jax.functional import attention
from transformer_jax.inference.capture import Capture
from transformer_jax.model.transformer import Transformer

N, H = 3, 5
MODEL = Transformer(
    ModelConfig(num_layers=2, d_model=14, d_ff=19, num_heads=N, d_key=H, d_value=7), toy.VOCAB_SIZE
)
PARAMS = toy.random_params(MODEL, stddev=0.7)


@pytest.fixture(scope="module")
def look():
    capture = Capture(MODEL, toy.tokenizers(), DecodeConfig(beam_size=2, extra_length=3))
    return lambda *off: capture.inside(PARAMS, [1], "我有一只猫", "She has a dog", off=off)


def same(one, other):
    np.testing.assert_array_equal(one.output, other.output)


def test_a_head_that_is_off_adds_nothing_to_the_output(look):
    whole, less = look(), look("encoder_0/self_attention/head_2")
    ours, before = (r.encoder[0].self_attention for r in (less, whole))
    np.testing.assert_array_equal(ours.heads, before.heads)
    part = before.heads[:, 2] @ PARAMS["encoder_0"]["self_attention"]["output_kernel"][2]
    np.testing.assert_allclose(ours.output, before.output - part, atol=1e-5)
    assert np.abs(part).max() > 0.1
    assert not ours.parameters["output_kernel"][2].any()
    assert np.abs(less.prediction.logits - whole.prediction.logits).max() > 1e-3


def test_all_heads_that_are_off_leave_the_bare_residual(look):
    off = [f"decoder_1/cross_attention/head_{n}" for n in range(N)]
    layers = look(*off).decoder
    assert not layers[1].cross_attention.output.any()
    same(layers[0].cross_attention, look().decoder[0].cross_attention)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_position_that_is_off_is_zero_on_its_side(side, look):
    whole, less = look(), look(f"{side}/position")
    ours, others = (getattr(less, s) for s in (side, "target" if side == "source" else "source"))
    assert not ours.position.any() and others.position.any()
    np.testing.assert_array_equal(ours.sum, ours.embedding)
    if side == "target":
        np.testing.assert_array_equal(less.encoded, whole.encoded)
        ours, before = (r.greedy.hypotheses[0].log_prob for r in (less, whole))
        assert abs(ours - before) > 1e-3


def test_without_the_mask_a_piece_sees_those_that_follow(look):
    whole, less = look(), look("target/mask")
    np.testing.assert_array_equal(less.encoded, whole.encoded)
    for layer in less.decoder:
        seen = layer.self_attention
        assert seen.mask.all()
        assert np.triu(seen.weights, 1).max() > 0.1
        expected = attention.attention_weights(seen.query[None], seen.key[None])[0]
        np.testing.assert_allclose(seen.weights, expected, atol=1e-6)
    assert not whole.decoder[0].self_attention.mask.all()
    assert np.abs(less.prediction.logits - whole.prediction.logits).max() > 1e-3
    # When translating there is nothing yet that a piece could see.
    assert less.greedy == whole.greedy and less.beam == whole.beam


def test_what_no_model_has_is_named(look):
    error = refused(look, "encoder_0/self_attention/head_3")
    assert "off='encoder_0/self_attention/head_3' is no part of this model" in error
    assert "did you mean target/position?" in refused(look, "target/positions")
    assert look("target/mask", "source/position").off == ("target/mask", "source/position")
