"""Models whose encoder and decoder have different depths, as distilled students do."""

import json

import pytest
from launching import in_process
from opus import opus

import transformer_jax as tj
from transformer_jax.model.size import count_parameters
from transformer_jax.modes.describe import describe


@pytest.mark.parametrize("depths", [(2, 1), (6, 2), (1, 3), (2, 2)])
def test_a_student_comes_in_and_goes_out(tmp_path, depths):
    opus(tmp_path / "m", depths=depths)
    in_process("import", tmp_path / "w", format="marian", input=tmp_path / "m")
    model = tj.load(tmp_path / "w")
    for side, depth in zip(("encoder", "decoder"), depths, strict=True):
        assert sum(name.startswith(f"{side}_") for name in model.params) == depth
    assert len(model.translate(["I have a cat .", "a"])) == 2
    in_process("export", tmp_path / "w", format="marian", output=tmp_path / "back")
    theirs = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (theirs["encoder_layers"], theirs["decoder_layers"]) == depths
    assert f"{count_parameters(model.params):,}" in describe(model.config).splitlines()[-1]
