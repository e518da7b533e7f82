"""What can be done with trained workdirs: scoring, ensembles, forced prefixes."""

import json
import math
import shutil

import numpy as np
import pytest
from launching import FLAGS, config_of, evaluate, in_process, json_lines, launch, refusal

import transformer_jax as tj
from transformer_jax.errors import UserError

LINES = ["我有一只猫", "", "他是老师。", "她有三本书。"]


@pytest.fixture(scope="module")
def other(trained, tmp_path_factory):
    """A second model of the same vocabulary: another seed and width, on the first's text."""
    workdir = tmp_path_factory.mktemp("runs") / "other"
    workdir.mkdir()
    shutil.copy(trained[0] / "tokenizer.model", workdir)
    more = ["--config.seed=1", "--config.model.d_model=12", "--config.model.logits_bias=True"]
    done = launch(f"--workdir={workdir}", *FLAGS, *more)
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_text("".join(line + "\n" for line in LINES), encoding="utf-8")
    return path


def translate(workdir, source, output, **options):
    in_process("translate", workdir, input=source, output=output, **options)
    return output.read_text(encoding="utf-8").splitlines()


def score(workdir, source, target, output, **options):
    files = {"input": source, "translations": target, "output": output}
    in_process("score", workdir, **files, **options)
    return json_lines(output)


# -------------------------------------------------------------------------------------------- score
def test_score_writes_what_the_model_gives(workdir, source, tmp_path, capsys):
    texts = ["I have a cat", "", "He is a teacher.", "She has three books."]
    target = tmp_path / "target"
    target.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    rows = score(workdir, source, target, tmp_path / "scores")
    found = tj.load(workdir).score(LINES, texts)
    for row, *pair, scores in zip(rows, LINES, texts, found, strict=True):
        assert [row["source"], row["translation"]] == pair
        assert row["pieces"] == list(scores.pieces)
        assert row["log_probs"] == pytest.approx(list(scores.log_probs))
        assert row["log_prob"] == pytest.approx(sum(scores.log_probs))
        mean = row["log_prob"] / len(row["pieces"])
        assert row["perplexity"] == pytest.approx(math.exp(-mean))
    logged = f"4 translations, {sum(len(row['pieces']) for row in rows)} pieces"
    assert logged in capsys.readouterr().err


def test_score_of_a_split_and_of_what_is_too_long(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transformer_jax.inference.batching.SOURCE_LENGTHS", (13,))
    rows = score(workdir, None, None, tmp_path / "scores", split="longer")
    assert len(rows) == 30
    assert [row["log_prob"] is None for row in rows] == [row["pieces"] is None for row in rows]
    too_long = sum(row["log_prob"] is None for row in rows)
    assert too_long > 0 and f"{too_long} pairs too long to score" in capsys.readouterr().err


def test_files_to_score_that_do_not_go_together(workdir, source, tmp_path):
    short = tmp_path / "short"
    short.write_text("one\n")
    with pytest.raises(UserError, match=r"has 4 lines and .*short 1"):
        score(workdir, source, short, tmp_path / "out")
    with pytest.raises(UserError, match="--input=SOURCES --translations=FILE"):
        score(workdir, source, None, tmp_path / "out")


# ----------------------------------------------------------------------------------------- ensemble
def test_an_ensemble_translates_evaluates_and_scores(workdir, other, source, tmp_path):
    alone = [translate(w, source, tmp_path / "out", weights="latest") for w in (workdir, other)]
    options = {"ensemble": [other], "weights": "latest"}
    both = translate(workdir, source, tmp_path / "out", **options)
    assert len(both) == len(LINES) and both[1] == ""
    assert both not in alone, "one of the two was not asked"
    target = tmp_path / "target"
    target.write_text("".join(line + "\n" for line in ["I", "", "you", "she"]))
    scores = [
        score(workdir, source, target, tmp_path / "a", weights="latest"),
        score(other, source, target, tmp_path / "b", weights="latest"),
        score(workdir, source, target, tmp_path / "c", **options),
    ]
    for a, b, mean in zip(*scores, strict=True):
        expected = (np.exp(a["log_probs"]) + np.exp(b["log_probs"])) / 2
        np.testing.assert_allclose(np.exp(mean["log_probs"]), expected, rtol=1e-4)
    before = (workdir / "evaluation" / "test" / "scores.json").read_bytes()
    evaluate(config_of(workdir), workdir, split="test", **options)
    report = json.loads((workdir / "evaluation" / "test-ensemble" / "scores.json").read_text())
    assert report["ensemble"] == [str(other)]
    assert report["steps"] == [[4], [4]]
    assert (workdir / "evaluation" / "test" / "scores.json").read_bytes() == before


def test_an_ensemble_needs_one_vocabulary(workdir, tmp_path):
    alien = tmp_path / "alien"
    done = launch(f"--workdir={alien}", *FLAGS, "--config.data.vocab_size=703")
    assert done.returncode == 0, done.stderr
    error = refusal(*("--mode=translate", f"--workdir={workdir}", f"--ensemble={alien}"), text="我")
    assert f"{workdir} and {alien} cannot be an ensemble: their vocabularies differ" in error
    error = refusal("--mode=evaluate", f"--workdir={workdir}", f"--ensemble={alien}/none")
    assert f"{alien}/none is not a workdir" in error


# ----------------------------------------------------------------------------------------- prefixes
def test_translations_begin_as_the_prefixes_do(workdir, source, tmp_path, capsys):
    prefixes = tmp_path / "prefixes"
    prefixes.write_text("I\nno\n\nThe\n")
    free = translate(workdir, source, tmp_path / "free")
    found = translate(workdir, source, tmp_path / "forced", prefixes=prefixes)
    assert found[0].startswith("I") and found[3].startswith("The")
    assert found[1:3] == ["", free[2]]
    prefixes = tmp_path / "prefixes"
    prefixes.write_text("I\n")
    with pytest.raises(UserError, match="prefixes has 1 lines, and there are 4"):
        translate(workdir, source, tmp_path / "out", prefixes=prefixes)
    prefixes.write_text("I have a cat and a dog\n\n\n\n")
    assert translate(workdir, source, tmp_path / "out", prefixes=prefixes)[0] == ""
    assert "line 1" in capsys.readouterr().err
