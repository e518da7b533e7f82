"""Models whose encoder and decoder have different depths, as distilled students do."""

import json

import pytest
from launching import in_process
from opus import D, opus

import transformer_jax as tj
from transformer_jax.model.size import count_parameters
from transformer_jax.modes.describe import describe

safetensors = pytest.importorskip("safetensors.numpy", reason="Marian's files need it")


@pytest.mark.parametrize("depths", [(2, 1), (6, 2), (1, 3), (2, 2)])
def test_a_student_comes_in_and_goes_out(tmp_path, depths):
    opus(tmp_path / "m", depths=depths)
    in_process("import", tmp_path / "w", format="marian", input=tmp_path / "m")
    model = tj.load(tmp_path / "w")
    for side, depth in zip(("encoder", "decoder"), depths, strict=True):
        assert sum(name.startswith(f"{side}_") for name in model.params) == depth
    assert len(model.translate(["I have a cat .", "a"])) == 2
    inside = model.inside("I have a cat .", "猫")
    assert (len(inside.encoder), len(inside.decoder)) == depths
    in_process("export", tmp_path / "w", format="marian", output=tmp_path / "back")
    theirs = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (theirs["encoder_layers"], theirs["decoder_layers"]) == depths
    assert total(describe(model.config)) == count_parameters(model.params)


def total(described):
    return int(described.splitlines()[-1].split()[-1].replace(",", ""))


@pytest.mark.parametrize("tokenizers", [True, False])
def test_describe_counts_the_weights_that_are_there(tmp_path, capsys, tokenizers):
    """Of vocabularies of two sizes, and where no file says which."""
    ids = opus(tmp_path / "m", separate=True, depths=(1, 2))
    if not tokenizers:
        (tmp_path / "m" / "source.spm").unlink()
    in_process("import", tmp_path / "w", format="marian", input=tmp_path / "m")
    capsys.readouterr()
    in_process("describe", tmp_path / "w")
    described = capsys.readouterr().out
    tensors = safetensors.load_file(tmp_path / "m" / "model.safetensors")
    # Our <bos> is one more row of each table, and of the bias.
    assert total(described) == sum(x.size for x in tensors.values()) + 2 * D + 1
    rows = {line.split()[0]: line for line in described.splitlines()}
    assert f"({len(ids) + 1}, {D})" in rows["target_embedding"]
    source = json.loads((tmp_path / "m" / "vocab.json").read_text(encoding="utf-8"))
    assert f"({len(source) + 1}, {D})" in rows["source_embedding"] and len(source) != len(ids)


def test_describe_of_other_options_is_of_these(workdir, capsys):
    in_process("describe", workdir)
    saved = total(capsys.readouterr().out)
    assert saved == count_parameters(tj.load(workdir).params)
    config = tj.load(workdir).config
    config.model.num_decoder_layers = 3
    in_process("describe", workdir, config)
    assert total(capsys.readouterr().out) > saved
