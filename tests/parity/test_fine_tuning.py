"""An imported model that is trained on and exported again is the same model in Hugging Face."""

import json

import numpy as np
import pytest
from opus import opus

import transformer_jax as tj
from transformer_jax.config.options import BOS_ID, EOS_ID
from transformer_jax.interop.marian import export_marian, import_marian
from transformer_jax.training.run import train

torch = pytest.importorskip("torch", reason="the peer; `make parity` installs it")
transformers = pytest.importorskip("transformers", reason="the peer; `make parity` installs it")
pytest.importorskip("sentencepiece")
torch.set_num_threads(2)

PEER = "Hugging Face Marian"
TEXTS = ["I have a cat .", "They can not find their old pens .", "my friend likes tea"]


def tuning(parent):
    """English to Chinese, for a few steps, fast enough to leave no weight as it was."""
    return tj.Config(
        data=tj.DataConfig(
            source_language="en",
            target_language="zh",
            train_size=300,
            held_out_size=7,
            batch_rows=5,
        ),
        optimizer=tj.OptimizerConfig(
            schedule="cosine", learning_rate_scale=1e-2, warmup_steps=3, label_smoothing=0.1
        ),
        train=tj.TrainConfig(
            start_from=str(parent),
            steps=13,
            checkpoint_every=13,
            evaluate_every=0,
            log_every=1,
            tensorboard=False,
        ),
        decode=tj.DecodeConfig(method="greedy", max_length=23),
    )


def their_ids(folder, tokenizers):
    """Their id of each of our pieces, on both sides, by the names in their vocabularies."""
    special, found = ["<pad>", "<unk>", "<s>", "</s>"], []
    for side, name in zip(tokenizers, ("vocab.json", "target_vocab.json"), strict=True):
        path = folder / name
        ids = json.loads((path if path.exists() else folder / "vocab.json").read_text())
        found.append(np.array([ids[piece] for piece in [*special, *side.vocabulary[4:]]]))
    return found


@pytest.mark.parametrize("separate", [False, True])
def test_what_is_trained_on_is_what_is_exported(tmp_path, measure, separate):
    opus(tmp_path / "m", separate=separate)
    import_marian(tmp_path / "m", tmp_path / "parent")
    run = train(tuning(tmp_path / "parent"), tmp_path / "tuned")
    losses = [row["train"]["loss"] for row in run.metrics if "train" in row]
    model, parent = run.model, tj.load(tmp_path / "parent")
    assert losses[-1] < losses[0]
    kernel = ("decoder_0", "cross_attention", "query_kernel")
    assert np.abs(deep(model.params, kernel) - deep(parent.params, kernel)).min() > 0
    export_marian(model.config, model.params, model.tokenizers, tmp_path / "out")
    peer = transformers.MarianMTModel.from_pretrained(tmp_path / "out").eval()
    sides = their_ids(tmp_path / "out", model.tokenizers)
    largest = 0.0
    for source, target in zip(TEXTS, model.translate(TEXTS), strict=True):
        encoded = np.array([*model.tokenizers.source.encode([source])[0], EOS_ID])
        decoded = np.array([BOS_ID, *model.tokenizers.target.encode([target or "猫"])[0]])
        ours = model.apply(encoded[None], decoded[None])
        with torch.no_grad():
            theirs = peer(
                input_ids=torch.tensor(sides[0][encoded][None]),
                decoder_input_ids=torch.tensor(sides[1][decoded][None]),
            ).logits.numpy()
        largest = max(largest, np.abs(np.asarray(ours) - theirs[..., sides[1]]).max())
    measure(PEER, "logits of an imported model that was trained on", largest, 1e-4)
    assert peer.config.decoder_start_token_id == sides[1][BOS_ID]
    tokenizer = transformers.MarianTokenizer.from_pretrained(tmp_path / "out")
    for source, translation in zip(TEXTS, model.translate(TEXTS), strict=True):
        batch = tokenizer([source], return_tensors="pt")
        assert (
            batch["input_ids"][0].tolist()
            == sides[0][[*model.tokenizers.source.encode([source])[0], EOS_ID]].tolist()
        )
        with torch.no_grad():
            ids = peer.generate(**batch)[0]
        assert tokenizer.decode(ids, skip_special_tokens=True) == translation


def deep(tree, path):
    for name in path:
        tree = tree[name]
    return np.asarray(tree)
