"""The same weights in PyTorch's own Transformer layers give the same numbers and gradients."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import traverse_util

from transformer_jax.config.options import BOS_ID, EOS_ID, PAD_ID, ModelConfig
from transformer_jax.functional.losses import label_smoothed_cross_entropy
from transformer_jax.model.transformer import Transformer

torch = pytest.importorskip("torch", reason="the peer; `make parity` installs it")
torch.set_num_threads(2)

LAYERS, DECODER_LAYERS, D, F, HEADS, V = 2, 3, 14, 19, 7, 23
SOURCE_LENGTHS, TARGET_LENGTHS = (13, 5, 11), (7, 11, 3)


class Peer(torch.nn.Module):
    """nn.TransformerEncoder and -Decoder, with the paper's embeddings around them."""

    def __init__(self, norm):
        super().__init__()
        options = {"norm_first": norm == "pre", "batch_first": True, "dropout": 0.0}
        encoder = torch.nn.TransformerEncoderLayer(D, HEADS, F, **options)
        decoder = torch.nn.TransformerDecoderLayer(D, HEADS, F, **options)
        # In post-norm the last layer ends in a norm of its own, and the paper has no other.
        ends = [torch.nn.LayerNorm(D) if norm == "pre" else None for _ in range(2)]
        self.encoder = torch.nn.TransformerEncoder(
            encoder, LAYERS, norm=ends[0], enable_nested_tensor=False
        )
        self.decoder = torch.nn.TransformerDecoder(decoder, DECODER_LAYERS, norm=ends[1])
        self.table = torch.nn.Parameter(torch.empty(V, D))

    def embed(self, tokens):
        position = torch.arange(tokens.shape[1], dtype=torch.float64)[:, None]
        angle = position / 10_000 ** (torch.arange(0, D, 2, dtype=torch.float64) / D)
        encoding = torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(-1, D)
        return self.table[tokens] * D**0.5 + encoding.float()

    def forward(self, source, target):
        padding = source == PAD_ID
        encoded = self.encoder(self.embed(source), src_key_padding_mask=padding)
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        decoded = self.decoder(
            self.embed(target), encoded, tgt_mask=causal, memory_key_padding_mask=padding
        )
        return encoded, decoded, decoded @ self.table.T


def random_peer(norm):
    """Weights, biases, scales and tables all drawn: nothing is left at zero or one."""
    torch.manual_seed(3)
    peer = Peer(norm)
    with torch.no_grad():
        for name, weight in peer.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            weight.normal_(0.0, D**-0.5 if weight.ndim == 2 else 0.3).add_(1.0 if is_scale else 0.0)
    return peer


def our_name(name):
    """Ours, for a parameter of PyTorch's that is not an input projection."""
    if name == "table":
        return "embedding"
    side, *parts, kind = name.split(".")
    if parts == ["norm"]:
        return f"{side}_norm/{'scale' if kind == 'weight' else 'bias'}"
    layer = f"{side}_{parts[1]}"
    sublayers = ["self_attention", *(["cross_attention"] if side == "decoder" else [])]
    sublayers.append("feed_forward")
    part = parts[2]
    if part.startswith("norm"):
        sublayer = sublayers[int(part.removeprefix("norm")) - 1]
        return f"{layer}/{sublayer}_residual/norm/{'scale' if kind == 'weight' else 'bias'}"
    if part.startswith("linear"):
        letter = "w" if kind == "weight" else "b"
        return f"{layer}/feed_forward/{letter}{part.removeprefix('linear')}"
    attention = {"self_attn": "self_attention", "multihead_attn": "cross_attention"}[part]
    return f"{layer}/{attention}/output_{'kernel' if kind == 'weight' else 'bias'}"


def to_ours(named):
    """PyTorch's parameters, or their gradients, as a tree like ours."""
    ours, width = {}, D // HEADS
    for name, tensor in named.items():
        array = tensor.detach().numpy()
        if "in_proj_" in name:  # query, key and value in one matrix
            attention = our_name(name.replace("in_proj_", "out_proj.")).rsplit("/", 1)[0]
            for part, block in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                if block.ndim == 2:
                    ours[f"{attention}/{part}_kernel"] = block.T.reshape(D, HEADS, width)
                else:
                    ours[f"{attention}/{part}_bias"] = block.reshape(HEADS, width)
            continue
        path = our_name(name)
        if path.endswith("output_kernel"):
            array = array.T.reshape(HEADS, width, D)
        elif path.endswith(("w1", "w2")):
            array = array.T
        ours[path] = array
    return traverse_util.unflatten_dict(ours, sep="/")


def ragged_batch():
    """int32 [3, 13] sources, [3, 11] decoder inputs and labels, padded with zeros."""
    rng = np.random.default_rng(11)
    source = np.zeros((3, max(SOURCE_LENGTHS)), np.int32)
    decoder_input = np.zeros((3, max(TARGET_LENGTHS)), np.int32)
    labels = np.zeros_like(decoder_input)
    for row, (s, t) in enumerate(zip(SOURCE_LENGTHS, TARGET_LENGTHS, strict=True)):
        source[row, :s] = [*rng.integers(4, V, s - 1), EOS_ID]
        words = rng.integers(4, V, t - 1)
        decoder_input[row, :t] = [BOS_ID, *words]
        labels[row, :t] = [*words, EOS_ID]
    return source, decoder_input, labels


def difference(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs.detach().numpy()).max())


def config_of(norm):
    """That of the peer."""
    return dataclasses.replace(
        ModelConfig(),
        **{"num_layers": LAYERS, "d_model": D, "d_ff": F, "num_heads": HEADS, "norm": norm},
        **{"attention_bias": True, "layer_norm_epsilon": 1e-5},
        num_decoder_layers=DECODER_LAYERS,
    )


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_outputs_and_all_gradients_are_pytorchs(norm, measure):
    peer = random_peer(norm)
    model = Transformer(config_of(norm), V)
    source, decoder_input, labels = ragged_batch()
    params = to_ours(dict(peer.named_parameters()))
    like = model.init(jax.random.key(0), source, decoder_input)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, like)

    encoded, decoded, logits = peer(
        *(torch.tensor(x, dtype=torch.long) for x in (source, decoder_input))
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=PAD_ID)
    their_loss = criterion(logits.flatten(0, 1), torch.tensor(labels.ravel(), dtype=torch.long))
    their_loss.backward()

    def loss(params):
        logits = model.apply({"params": params}, source, decoder_input)
        total, count = label_smoothed_cross_entropy(
            logits, labels, label_smoothing=0.1, pad_id=PAD_ID
        )
        return total / count, logits

    (our_loss, our_logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    our_encoded = model.apply({"params": params}, source, method="encode")
    _, seen = model.apply(
        {"params": params}, source, decoder_input, capture_intermediates=True, mutable=True
    )
    last = "decoder_norm" if norm == "pre" else f"decoder_{DECODER_LAYERS - 1}"
    (our_decoded,) = seen["intermediates"][last]["__call__"]
    # What padding gives is nobody's business, and PyTorch's differs.
    real_source, real_target = source != PAD_ID, labels != PAD_ID
    name = f"PyTorch nn.Transformer, {norm}-norm"
    encoder_difference = difference(our_encoded[real_source], encoded[real_source])
    measure(name, "encoder output", encoder_difference, 1e-5)
    decoder_difference = difference(our_decoded[real_target], decoded[real_target])
    measure(name, "decoder output", decoder_difference, 1e-5)
    measure(name, "logits", difference(our_logits[real_target], logits[real_target]), 1e-5)
    measure(name, "label-smoothed loss", difference(our_loss, their_loss), 1e-5)
    theirs = to_ours({n: weight.grad for n, weight in peer.named_parameters()})
    differences = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), gradients, theirs)
    assert len(jax.tree.leaves(differences)) == len(jax.tree.leaves(like))
    measure(name, "gradients of all parameters", max(jax.tree.leaves(differences)), 1e-5)
    # A key's bias alone has no gradient: it adds the same to all scores of a query.
    largest = traverse_util.flatten_dict(
        jax.tree.map(lambda g: np.abs(g).max(), gradients), sep="/"
    )
    assert all(size > 1e-4 for path, size in largest.items() if not path.endswith("key_bias"))


def keep_weights(peer):
    """What each MultiheadAttention of PyTorch returns as its weights, filled when `peer` runs."""
    found = {}

    def ask(module, args, options):
        return args, options | {"need_weights": True, "average_attn_weights": False}

    for name, module in peer.named_modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            module.register_forward_pre_hook(ask, with_kwargs=True)
            module.register_forward_hook(
                lambda _, args, result, name=name: found.update({name: result[1]})
            )
    return found


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_weights_that_are_shown_are_those_that_pytorch_returns(norm, measure):
    peer = random_peer(norm)
    theirs = keep_weights(peer)
    source, decoder_input, _ = ragged_batch()
    peer(*(torch.tensor(x, dtype=torch.long) for x in (source, decoder_input)))
    model = Transformer(config_of(norm), V)
    variables = {"params": to_ours(dict(peer.named_parameters()))}
    _, seen = model.apply(variables, source, decoder_input, mutable=["intermediates"])
    assert len(theirs) == LAYERS + 2 * DECODER_LAYERS
    for name, weights in theirs.items():
        layer, attention = our_name(f"{name}.out_proj.weight").split("/")[:2]
        (ours,) = seen["intermediates"][layer][attention]["weights"]
        assert ours.shape == weights.shape
        queries = source if layer.startswith("encoder") else decoder_input
        real = np.nonzero(queries != PAD_ID)  # what a padded query attends to is nobody's business
        rows = (real[0], slice(None), real[1])
        measure(
            f"PyTorch nn.Transformer, {norm}-norm",
            f"weights of {attention}",
            difference(np.asarray(ours)[rows], weights[rows]),
            1e-5,
        )
