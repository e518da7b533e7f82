"""No search generates <unk>, which prints as " ⁇ ", of an imported model or of ours."""

import dataclasses

import numpy as np
import pytest
from launching import in_process
from opus import opus

import transformer_jax as tj
from transformer_jax.config.options import EOS_ID, UNK_ID

TEXTS = ["I have a cat .", "a"]


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_an_imported_model_never_generates_unk(tmp_path, method):
    opus(tmp_path / "m", bias={"<unk>": 30.0, "</s>": 4.0})
    in_process("import", tmp_path / "w", format="marian", input=tmp_path / "m")
    config = tj.load(tmp_path / "w").config
    model = tj.load(
        tmp_path / "w",
        config=dataclasses.replace(
            config, decode=dataclasses.replace(config.decode, method=method)
        ),
    )
    for text, found in zip(TEXTS, model.hypotheses(TEXTS), strict=True):
        for h in found:
            assert "⁇" not in h.text and UNK_ID not in h.ids
            # What it reports is the model's own probability, nearly all of which is <unk>'s.
            assert h.log_prob < -10 * len(h.ids)
            source = [*model.tokenizers.source.encode([text])[0], EOS_ID]
            (scored,) = model.scorer.score_ids(model.all_params, [(source, h.ids)])
            np.testing.assert_allclose(h.token_log_probs, scored.log_probs, rtol=1e-3)


def test_a_model_of_ours_never_generates_unk(workdir):
    model = tj.load(workdir)
    usual = model.translate("我有一只猫", return_scores=True).ids[0]
    embedding = np.array(model.params["embedding"])
    embedding[UNK_ID] = 5 * embedding[usual]  # five times the logit of what it says
    params = dict(model.params) | {"embedding": embedding}
    changed = dataclasses.replace(model, all_params=(params,))
    for h in changed.translate(["我有一只猫", "猫"], return_scores=True):
        assert h.ids and UNK_ID not in h.ids
