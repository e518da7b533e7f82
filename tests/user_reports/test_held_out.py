"""Evaluating on text that was trained on, as users of other toolkits reported it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from launching import TINY, in_process, refused, tiny_config

import transformer_jax as tj
from transformer_jax.data import corpora, held_out
from transformer_jax.data.small_world import grammar
from transformer_jax.workdir.card import read as read_card

PAIRS = grammar.pairs("train", size=211)
SIZE = 13
FILES = {"data.corpus": "files", "data.train_size": 0, "data.held_out_size": SIZE}


def write(path, pairs):
    path.write_text("".join(f"{s}\t{t}\n" for s, t in pairs), encoding="utf-8")
    return str(path)


def config(train, **options):
    named = {f"data.{name}": value for name, value in options.items()}
    return tiny_config(FILES | {"data.train": train, "train.evaluate_every": 0} | named)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir whose held-out splits are cut from the text beside it."""
    folder = tmp_path_factory.mktemp("held_out")
    text = write(folder / "text.tsv", PAIRS)
    tj.train(config(text, valid="", test=""), folder / "run")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, with its text, which a test may change."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    about = folder / "run/held_out/about.json"
    for path in (about, folder / "run/config.json"):
        path.write_text(path.read_text().replace(str(trained), str(folder)))
    held_out.manifest.write(about.parent)
    return folder / "run"


def evaluated(run, capsys, **flags):
    """(sources of the split that was evaluated, what was logged)."""
    in_process("evaluate", run, **flags)
    split = flags.get("split", "test")
    rows = (run / "evaluation" / split / "translations.jsonl").read_text().splitlines()
    return [json.loads(row)["source"] for row in rows], capsys.readouterr().err


def trained_pairs(run):
    data = dataclasses.replace(tj.load(run).config.data, train=str(run.parent / "text.tsv"))
    return list(corpora.load_split(data, "train").pairs)


def test_a_text_that_grew_is_not_cut_again(run, capsys):
    before, _ = evaluated(run, capsys)
    assert len(before) >= SIZE
    write(run.parent / "text.tsv", [*PAIRS, ("新的句子", "a new sentence")])
    after, logged = evaluated(run, capsys)
    assert after == before
    assert f"{run.parent}/text.tsv has changed since training began" in logged


def test_a_text_that_is_gone_is_not_needed(run, capsys):
    before, _ = evaluated(run, capsys)
    (run.parent / "text.tsv").unlink()
    after, logged = evaluated(run, capsys)
    assert after == before
    assert "text.tsv no longer exists" in logged
    assert "no scores by rare words: " in logged
    assert tj.evaluate(tj.load(run)).sentences == len(before)


def test_words_are_not_counted_in_another_text(run, capsys):
    def kinds():
        _, logged = evaluated(run, capsys)
        return len(json.loads((run / "evaluation/test/scores.json").read_text())["bins"]), logged

    both, logged = kinds()
    assert both == 2 and "rare words" not in logged
    write(run.parent / "text.tsv", [(a, f"not {b}") for a, b in PAIRS])
    alone, logged = kinds()
    assert alone == 1 and "no scores by rare words: the training text has changed" in logged


def test_options_that_cut_another_split_are_refused(run):
    larger = config(str(run.parent / "text.tsv"), held_out_size=67)
    message = refused(in_process, "evaluate", run, larger)
    assert "data.held_out_size" in message
    assert "are in the training text" in message


def test_options_that_cut_the_same_split_are_not(run, capsys):
    before, _ = evaluated(run, capsys)
    smaller = config(str(run.parent / "text.tsv"), train_size=53)
    in_process("evaluate", run, smaller)
    rows = (run / "evaluation/test/translations.jsonl").read_text().splitlines()
    assert [json.loads(row)["source"] for row in rows] == before


def test_another_text_to_cut_from_is_refused(run, tmp_path):
    longer = write(tmp_path / "longer.tsv", [*PAIRS, ("新的句子", "a new sentence")])
    assert "data.train" in refused(in_process, "evaluate", run, config(longer))
    model = dataclasses.replace(tj.load(run), config=config(longer))
    assert "data.train" in refused(tj.evaluate, model)


def test_the_other_direction_of_a_text_is_not_cut_again(run, tmp_path):
    flipped = write(tmp_path / "flipped.tsv", [pair[::-1] for pair in PAIRS])
    options = tj.load(run).config
    options.data.train, options.data.held_out_size = flipped, 5 * SIZE
    message = refused(in_process, "evaluate", run, options)
    assert f"of {5 * SIZE} pairs" in message and "are in the training text" in message


def test_given_pairs_are_counted_in_either_direction(run, tmp_path):
    trained, held_out_ones = trained_pairs(run)[:11], [("a", "b"), ("c", "d")]
    for pairs in trained, [pair[::-1] for pair in trained]:
        assert held_out.count_overlap(run, pairs + held_out_ones) == (11, 11, 13)


@pytest.mark.parametrize("mode", ["evaluate", "score"])
def test_a_given_test_set_that_was_trained_on_is_counted(run, capsys, mode):
    seen, unseen = trained_pairs(run)[:7], [(f"{s}{s}", t) for s, t in PAIRS[:5]]
    source_alone = [(trained_pairs(run)[7][0], "another translation")]
    test = write(run.parent / "test.tsv", [*seen, *unseen, *source_alone])
    in_process(mode, run, config(str(run.parent / "text.tsv"), test=test))
    logged = capsys.readouterr().err
    assert "warning: test: 7 of 13 pairs, and 8 sources, are in the training text" in logged
    if mode == "evaluate":
        scores = json.loads((run / "evaluation/test/scores.json").read_text())
        assert scores["trained_on"] == {"pairs": 7, "sources": 8, "of": 13}
        (evaluation,) = read_card(run)["results"]["evaluations"]
        assert evaluation["trained_on"] == scores["trained_on"]


def test_the_training_split_is_evaluated_with_a_warning(run, capsys):
    number = len(trained_pairs(run))
    _, logged = evaluated(run, capsys, split="train")
    assert f"warning: train: {number} of {number} pairs" in logged


def test_given_splits_are_compared_with_the_training_text_when_it_begins(tmp_path, capsys):
    test = write(tmp_path / "test.tsv", [*PAIRS[:6], ("一", "one")])
    valid = write(tmp_path / "valid.tsv", [("二", "two")])
    tj.train(config(write(tmp_path / "train.tsv", PAIRS), valid=valid, test=test), tmp_path / "run")
    logged = capsys.readouterr().err
    assert "warning: test: 6 of 7 pairs, and 6 sources, are in the training text" in logged
    assert "\nvalid: 0 of 1 pairs, and 0 sources, are in the training text" in logged
    assert read_card(tmp_path / "run")["data"]["trained_on"] == {
        "test": {"pairs": 6, "sources": 6, "of": 7},
        "valid": {"pairs": 0, "sources": 0, "of": 1},
    }


def test_resuming_validates_on_the_recorded_pairs(tmp_path, capsys):
    train, valid = write(tmp_path / "train.tsv", PAIRS), write(tmp_path / "valid.tsv", PAIRS[:5])
    tj.train(config(train, valid=valid), tmp_path / "run")
    recorded = read_card(tmp_path / "run")["data"]["validation_text"]
    write(tmp_path / "valid.tsv", PAIRS[5:9])
    longer = config(train, valid=valid)
    longer.train.steps = 2 * TINY["train.steps"]
    tj.train(longer, tmp_path / "run")
    assert read_card(tmp_path / "run")["data"]["validation_text"] == recorded
    assert "valid.tsv has changed since training began" in capsys.readouterr().err


def test_a_workdir_without_a_record_is_evaluated_with_a_warning(run, capsys):
    shutil.rmtree(run / "held_out")
    _, logged = evaluated(run, capsys)
    assert f"warning: {run} does not record its training text" in logged


def test_a_damaged_record_is_refused(run):
    path = run / "held_out/test.jsonl"
    path.write_text(path.read_text().replace("我", "你"))
    assert "test.jsonl has been altered" in refused(in_process, "evaluate", run)


def test_every_member_of_an_ensemble_is_compared(run, trained, capsys, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    held_out.record(other, tj.Config().data, {"train": corpora.Corpus(PAIRS, 0)})
    in_process("evaluate", run, ensemble=str(other))
    assert f"are in the training text of {other}" in capsys.readouterr().err


def test_white_space_and_unicode_forms_hide_no_overlap(tmp_path):
    train = {"train": corpora.Corpus([("ein Gru\u0308n", "a  green"), ("b", "c")], 0)}
    held_out.record(tmp_path, tj.Config().data, train)
    same = [("ein\xa0Gr\xfcn ", "a green"), ("b", "C"), ("d", "c")]
    assert held_out.count_overlap(tmp_path, same) == (1, 2, 3)


def test_fingerprints_are_a_set_of_eight_bytes_a_text(tmp_path):
    held_out.record(tmp_path, tj.Config().data, {"train": corpora.Corpus(PAIRS * 3, 0)})
    for name, texts in (("sources", {s for s, _ in PAIRS}), ("pairs", set(PAIRS))):
        prints = np.load(tmp_path / "held_out" / f"training_{name}.npy")
        assert prints.dtype == np.uint64
        assert len(prints) == len(texts)
