"""Models that read which language to write, ">>fra<< I have a cat": imported ones, and our own."""

import numpy as np
import pytest
from launching import TINY, in_process, launch, refused
from opus import opus

import transformer_jax as tj
from transformer_jax.data.language_codes import codes_of_corpus, split_code
from transformer_jax.data.tokenizer import Tokenizers, train_tokenizers

TEXTS = ["I have a cat .", "We see the old house ."]


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    opus(folder / "m")
    in_process("import", folder / "w", format="marian", input=folder / "m")
    return folder / "w"


@pytest.fixture
def model(multilingual):
    return tj.load(multilingual)


def with_token(workdir, token):
    config = tj.load(workdir).config
    config.decode.target_token = token
    return tj.load(workdir, config=config)


@pytest.mark.parametrize("code", [">>fr<<", ">>FRA<<", ">>deu_Latn<<", ">>▁<<"])
def test_a_code_that_the_vocabulary_lacks_is_an_error_that_lists_those_it_has(model, code):
    for text in (f"{code} {TEXTS[0]}", f" {code}{TEXTS[0]}"):
        for call in (model.translate, model.encode, lambda text: model.score(text, "猫")):
            message = refused(call, ["ok", text][1])
            assert code in message and ">>deu<<, >>fra<<" in message


def test_a_resident_translator_leaves_a_line_with_such_a_code_empty(multilingual):
    lines = [f">>fra<< {TEXTS[0]}", ">>fr<< a", f">>deu<< {TEXTS[1]}"]
    options = ["--mode=translate", f"--workdir={multilingual}", "--batch_lines=3"]
    done = launch(*options, text="\n".join(lines))
    assert done.returncode == 0 and done.stderr.startswith("line 2: >>fr<< is not in the model's")
    expected = tj.load(multilingual).translate([lines[0], lines[2]])
    assert done.stdout.split("\n") == [expected[0], "", expected[1], ""]


def test_a_long_list_of_codes_is_cut(tmp_path):
    codes = [f">>x{n}<<" for n in range(131)]
    opus(tmp_path / "m", codes=codes)
    in_process("import", tmp_path / "w", format="marian", input=tmp_path / "m")
    message = refused(tj.load(tmp_path / "w").translate, ">>fra<< a")
    assert ">>x0<<, >>x1<<" in message and "and 111 more" in message and len(message) < 400


def test_a_code_is_an_error_of_a_model_of_two_languages(tmp_path):
    opus(tmp_path / "m", codes=())
    in_process("import", tmp_path / "w", format="marian", input=tmp_path / "m")
    model = tj.load(tmp_path / "w")
    assert "no codes" in refused(model.translate, ">>fra<< a")
    assert model.translate("a >>fra<<") is not None
    assert "no codes" in refused(lambda: with_token(tmp_path / "w", ">>fra<<").translate("a"))


def test_a_code_for_a_model_of_our_own_that_has_none_is_one_warning(workdir, capsys):
    model = tj.load(workdir)
    model.translate([">>fra<< 猫", ">>deu<< 我"])
    model.translate(">>fra<< 猫")
    logged = capsys.readouterr().err
    assert logged == "warning: this model has no codes of languages: it reads >>deu<< as text\n"


@pytest.mark.parametrize("space", [" ", "\t", "  ", "\u00a0", "\u3000", "\ufeff", "\u200b "])
def test_white_space_before_a_code_does_not_matter(model, space):
    plain, spaced = (f"{before}>>fra<< {TEXTS[0]}" for before in ("", space))
    ids = model.tokenizers.source.encode([plain, spaced, f"{space}>>fra<<{TEXTS[0]}"])
    assert ids[0] == ids[1] == ids[2]
    assert model.tokenizers.source.vocabulary[ids[0][0]] == ">>fra<<"
    assert ids[0][1:] == model.tokenizers.source.encode([TEXTS[0]])[0]


def test_target_token_is_for_all_lines(multilingual, model, capsys):
    coded = [f">>fra<< {text}" for text in TEXTS]
    chosen = with_token(multilingual, ">>fra<<")
    for whole, bare in zip(model.hypotheses(coded), chosen.hypotheses(TEXTS), strict=True):
        assert [h.ids for h in whole] == [h.ids for h in bare]
    assert chosen.score(TEXTS, ["猫"] * 2) == model.score(coded, ["猫"] * 2)
    np.testing.assert_array_equal(chosen.encode(TEXTS[0]), model.encode(coded[0]))
    assert chosen.inside(TEXTS[0], "猫").source.pieces[0] == ">>fra<<"
    own = [f">>deu<< {TEXTS[0]}"]  # a line's own code stays
    assert chosen.translate(own) == model.translate(own)
    assert chosen.translate(["", " \u3000"]) == ["", ""]
    assert capsys.readouterr().err == ""
    message = refused(lambda: with_token(multilingual, "fra").translate("a"))
    assert "decode.target_token='fra'" in message and ">>deu<<, >>fra<<" in message


def test_no_code_is_one_warning(model, capsys):
    model.translate([*TEXTS, "", f">>fra<< {TEXTS[0]}"])
    model.translate(TEXTS)
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("2 of 4 sources", "decode.target_token", ">>deu<<, >>fra<<"):
        assert words in line
    model.translate([f">>fra<< {TEXTS[0]}"])
    assert capsys.readouterr().err == ""


def test_split_code():
    assert split_code("  >>fra<< I have a cat") == (">>fra<<", " I have a cat")
    for text in ("a >>fra<<", "", ">>", ">> fra<< a", ">>fra< a", ">><< a", "<<fra>> a"):
        assert split_code(text) == ("", text)


@pytest.mark.parametrize("shared", [True, False])
def test_codes_of_the_training_text_are_pieces(shared):
    pairs = [(f">>{c}<< das ist {n}", f"{c} {n}") for c in ("eng", "fra") for n in range(300)]
    tokenizers = train_tokenizers(pairs, vocab_size=300, shared=shared)
    assert tokenizers.source.codes == (">>eng<<", ">>fra<<")
    pieces = tokenizers.source.pieces("\u3000>>fra<<das ist 7")
    assert pieces == [">>fra<<", *tokenizers.source.pieces("das ist 7")]
    ids = tokenizers.source.encode([">>eng<< das ist 7"])
    assert [tokenizers.source.vocabulary[i] for i in ids[0]] == [">>eng<<", *pieces[1:]]


def test_codes_that_few_lines_have_are_text_and_that_is_logged(capsys):
    assert codes_of_corpus([">>fra<< a", "b", "c"]) == []
    assert "1 of 3 sources begin with a code, as >>fra<<" in capsys.readouterr().err
    assert codes_of_corpus([">>fra<< a", " >>deu<< b", "c"]) == [">>deu<<", ">>fra<<"]
    assert "1 of 3 sources begin with no code" in capsys.readouterr().err
    assert codes_of_corpus(["a", "b"]) == [] and capsys.readouterr().err == ""


def test_a_model_of_our_own(tmp_path):
    """Trained on two languages from one, saved, loaded, asked, and exported."""
    rows = [(f"{n} cats see {n + 1} dogs", n) for n in range(1000)]
    for name, line in (("en", "{code} {text}"), ("xx", "{word} {n}")):
        languages = ((">>deu<<", "katzen"), (">>fra<<", "chats"))
        lines = [
            line.format(code=code, text=text, word=word, n=n)
            for text, n in rows
            for code, word in languages
        ]
        (tmp_path / name).write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")
    options = TINY | {"data.corpus": "files", "data.vocab_size": 400, "train.evaluate_every": 0}
    options |= {"data.train": f"{tmp_path}/en,{tmp_path}/xx", "model.attention_bias": True}
    options |= {"model.sinusoid_layout": "halves", "model.layer_norm_epsilon": 1e-5}
    flags = [f"--config.{name}={value}" for name, value in options.items()]
    done = launch(f"--workdir={tmp_path / 'w'}", *flags)
    assert done.returncode == 0, done.stderr
    assert Tokenizers.load(tmp_path / "w").source.codes == (">>deu<<", ">>fra<<")
    model = with_token(tmp_path / "w", ">>fra<<")
    assert model.translate("7 cats") == tj.load(tmp_path / "w").translate(">>fra<< 7 cats")
    assert ">>deu<<, >>fra<<" in refused(model.translate, ">>spa<< 7 cats")
    pytest.importorskip("safetensors", reason="Marian's files need it")
    in_process("export", tmp_path / "w", format="marian", output=tmp_path / "m")
    in_process("import", tmp_path / "again", format="marian", input=tmp_path / "m")
    text = [" >>fra<< 7 cats see"]
    again = tj.load(tmp_path / "again").tokenizers.source
    assert again.encode(text) == model.tokenizers.source.encode(text)
