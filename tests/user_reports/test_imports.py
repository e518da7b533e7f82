"""Options of an imported model's translation are honoured, or one line names them."""

import json

import pytest
from launching import in_process
from opus import opus

import transformer_jax as tj

TEXTS = ["I have a cat .", "We see the old house .", "a b c d e f g"]


def imported(folder, capsys):
    """The model, and the lines that import logged about what it does not honour."""
    in_process("import", folder / "w", format="marian", input=folder / "m")
    lines = capsys.readouterr().err.splitlines()
    return tj.load(folder / "w"), [line for line in lines if "not honoured" in line]


LOST = {
    "min_length": 5,
    "do_sample": True,
    "temperature": 0.7,
    "early_stopping": True,
    "suppress_tokens": [7],
    "encoder_no_repeat_ngram_size": 2,
    "exponential_decay_length_penalty": [7, 1.5],
    "an_option_of_tomorrow": "x",
}


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
def test_every_option_that_is_not_honoured_is_named_in_one_line(tmp_path, capsys, place):
    late = place == "generation_config.json"
    opus(tmp_path / "m", **({"generation": LOST} if late else LOST))
    _, (line,) = imported(tmp_path, capsys)
    for name, value in LOST.items():
        assert f"{name}={value!r}" in line
    for name in ("num_beams", "bad_words_ids", "pad_token_id", "max_length", "d_model"):
        assert name not in line


def test_an_ordinary_model_has_no_such_line(tmp_path, capsys):
    """What Helsinki-NLP's files have besides, and defaults that somebody wrote down."""
    about = {"_name_or_path": "x", "_num_labels": 3, "id2label": {"0": "L"}, "init_std": 0.02}
    about |= {"torch_dtype": "float16", "max_position_embeddings": 512, "num_hidden_layers": 1}
    about |= {"activation_dropout": 0.0, "classif_dropout": 0.0, "add_bias_logits": False}
    about |= {"use_cache": True, "transformers_version": "4.22.0", "gradient_checkpointing": False}
    defaults = {"do_sample": False, "top_k": 50, "min_length": 0, "forced_bos_token_id": None}
    opus(tmp_path / "m", generation=defaults | {"early_stopping": False}, **about)
    assert imported(tmp_path, capsys)[1] == []


def test_no_repeat_ngram_size_is_honoured(tmp_path, capsys):
    opus(tmp_path / "m", generation={"no_repeat_ngram_size": 3, "renormalize_logits": False})
    model, lost = imported(tmp_path, capsys)
    assert not lost and model.config.decode.no_repeat_ngram_size == 3
    for found in model.hypotheses(TEXTS):
        for ids in (h.ids for h in found):
            trigrams = list(zip(ids, ids[1:], ids[2:], strict=False))
            assert len(ids) > 5 and len(set(trigrams)) == len(trigrams)


def test_repetition_penalty_is_honoured(tmp_path, capsys):
    opus(tmp_path / "m", generation={"repetition_penalty": 50.0})
    model, (line,) = imported(tmp_path, capsys)
    assert "renormalize_logits=True" in line and "repetition_penalty" not in line
    first = model.translate(TEXTS, return_scores=True)[0].ids
    assert len(set(first)) == len(first)


def test_bad_words_and_a_forced_first_piece_are_honoured(tmp_path, capsys):
    opus(tmp_path / "plain")
    in_process("import", tmp_path / "p", format="marian", input=tmp_path / "plain")
    usual = tj.load(tmp_path / "p")
    frequent = [h.ids[1] for h in usual.translate(TEXTS, return_scores=True)]
    pieces = usual.tokenizers.target.vocabulary
    ids = opus(tmp_path / "m")
    bad = [[ids["<pad>"]], *([ids[pieces[i]]] for i in frequent)]
    generation = {"bad_words_ids": bad, "forced_bos_token_id": ids[">>fra<<"], "num_beams": 4}
    (tmp_path / "m" / "generation_config.json").write_text(json.dumps(generation))
    model, lost = imported(tmp_path, capsys)
    assert not lost
    for found in model.hypotheses(TEXTS):
        for h in found:
            assert pieces[h.ids[0]] == ">>fra<<" and not set(h.ids) & set(frequent)
    in_process("export", tmp_path / "w", format="marian", output=tmp_path / "back")
    back = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert back["forced_bos_token_id"] == ids[">>fra<<"]
    assert all(row in back["bad_words_ids"] for row in bad)


@pytest.mark.parametrize(("name", "value"), [("max_length", 4), ("max_new_tokens", 3)])
def test_the_longest_translation_is_honoured(tmp_path, capsys, name, value):
    opus(tmp_path / "m", generation={name: value})
    model, lost = imported(tmp_path, capsys)
    assert not lost
    lengths = [len(h.ids) for found in model.hypotheses(TEXTS) for h in found]
    assert max(lengths) == 3


def test_ids_of_generation_config_come_first(tmp_path, capsys):
    """As in Hugging Face's generate: config.json is what early versions read."""
    ids = opus(tmp_path / "m", decoder_start_token_id=5, num_beams=7, generation={"num_beams": 2})
    model, _ = imported(tmp_path, capsys)
    assert model.config.decode.beam_size == 2
    assert len(model.tokenizers.target.vocabulary) == len(ids) + 1  # pad begins, which is borrowed


@pytest.mark.parametrize(
    ("form", "lost"),
    [
        ("marian", ["decode.target_token='>>fra<<'", "decode.choose='mbr'"]),
        (
            "ctranslate2",
            [
                "decode.target_token='>>fra<<'",
                "decode.max_length=511",
                "decode.repetition_penalty=1.5",
                "decode.choose='mbr'",
            ],
        ),
    ],
)
def test_an_export_names_what_it_cannot_store(tmp_path, capsys, form, lost):
    if form == "ctranslate2":
        pytest.importorskip(form, reason="what is tested writes its format")
    opus(tmp_path / "m", generation={"repetition_penalty": 1.5})
    model, _ = imported(tmp_path, capsys)
    model.config.decode.target_token, model.config.decode.choose = ">>fra<<", "mbr"
    options = {"format": form, "output": tmp_path / "out"}
    in_process("export", tmp_path / "w", model.config, **options)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "does not store" in x]
    assert line.endswith(", ".join(lost))
