"""The launcher from end to end: what a user types, in processes of its own where that matters."""

import json
import re
import shutil
import subprocess
import sys
import threading

import pytest
from failures import poison
from launching import (
    FLAGS,
    ROOT,
    TINY,
    config_of,
    evaluate,
    in_process,
    json_lines,
    launch,
    refusal,
    refused,
    tiny_config,
    translate,
)

from transformer_jax.config.options import flatten
from transformer_jax.data import corpora
from transformer_jax.data.batches import PackedDataset
from transformer_jax.evaluation.bins import RAREST_WORD, SOURCE_LENGTH
from transformer_jax.inference.trained import load
from transformer_jax.training import health
from transformer_jax.training.replay import replay_step
from transformer_jax.training.run import train


# ----------------------------------------------------------------------------------- end to end
@pytest.mark.fast
def test_training_evaluates_and_shows_the_demo(trained):
    workdir, done = trained
    assert "step 4/4" in done.stderr
    assert "Traceback" not in done.stderr and "resuming from step" not in done.stderr
    for part in ("我有一只猫 → ", "BLEU", "test, weights average of step 2, 4"):
        assert part in done.stdout
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "tokenizer.model", "checkpoints", "metrics.jsonl", "evaluation"} <= names
    assert not list(workdir.rglob("*.tmp"))
    options = flatten(config_of(workdir))
    assert {name: options[name] for name in TINY} == TINY
    metrics = json_lines(workdir / "metrics.jsonl")
    assert [row["step"] for row in metrics if "train" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in metrics if "valid" in row] == [4]
    folder = workdir / "evaluation" / "test"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["steps"] == [2, 4]
    assert scores["sentences"] == len(json_lines(folder / "translations.jsonl"))


def test_a_training_with_tensorboard_and_all_the_held_out_pairs(tmp_path):
    """Which the other trainings of the tests leave out."""
    options = ["--config.train.tensorboard=True", "--config.data.held_out_size=307"]
    done = launch(f"--workdir={tmp_path}", *FLAGS, *options, "--config.train.evaluate_every=2")
    assert done.returncode == 0, done.stderr
    assert len(json_lines(tmp_path / "evaluation" / "test" / "translations.jsonl")) == 307
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")


@pytest.mark.fast
def test_three_lines_in_three_lines_out(workdir):
    line = ["--mode=translate", f"--workdir={workdir}"]
    done = launch(*line, text="我有一只猫\n\n他是老师。\n", real=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split("\n")
    assert len(lines) == 4
    assert (lines[1], lines[3]) == ("", "")


@pytest.mark.fast
def test_describe():
    done = launch("--mode=describe", *FLAGS, real=True)
    assert (done.returncode, done.stderr) == (0, "")
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[-1] == ["total", f"{sum(int(row[-1].replace(',', '')) for row in table[:-1]):,}"]


# ---------------------------------------------------------------------------------------- resume
def longer(workdir, steps=6):
    """The configuration of a workdir, with more steps and without a validation."""
    config = config_of(workdir)
    config.train.steps, config.train.evaluate_every = steps, 0
    return config


def test_training_resumes_at_its_step(workdir, capsys, monkeypatch):
    config, steps, batch = longer(workdir), [], PackedDataset.batch

    def recorded(data, step, rows):
        steps.append(step)
        return batch(data, step, rows)

    monkeypatch.setattr(PackedDataset, "batch", recorded)
    train(config, workdir)
    assert steps == [4, 5]
    assert "resuming from step 4" in capsys.readouterr().err
    metrics = json_lines(workdir / "metrics.jsonl")
    assert [row["step"] for row in metrics if "train" in row] == [1, 2, 3, 4, 5, 6]
    assert config_of(workdir) == config
    assert load(workdir, config=config, weights="latest").steps == ([6],)


def test_what_a_run_does_not_resume_with(workdir, capsys):
    before = (workdir / "config.json").read_bytes()
    assert "train.steps=2, but 4 steps are done" in refused(train, longer(workdir, 2), workdir)
    assert (workdir / "config.json").read_bytes() == before
    message = refused(train, config_of(workdir), workdir, profile="somewhere")
    assert "--profile needs 15 steps, and 0 are left" in message

    (workdir / "training_data.sha256").write_text("0123456789abcdef\n")
    message = refused(train, config_of(workdir), workdir)
    assert "the training text is not the one" in message
    config = longer(workdir)
    (workdir / "config.json").rename(workdir / "elsewhere")
    assert "has checkpoints, but no config.json" in refused(train, config, workdir)
    (workdir / "elsewhere").rename(workdir / "config.json")
    (workdir / "training_data.sha256").unlink()
    train(config, workdir)
    assert "has no training_data.sha256: cannot verify the training text" in capsys.readouterr().err
    assert (workdir / "training_data.sha256").exists()

    before = config_of(workdir)
    error = refusal(f"--workdir={workdir}", "--config.model.d_ff=18")
    assert "model.d_ff: 14 in the workdir, 18 now" in error
    assert config_of(workdir) == before
    config = config_of(workdir)
    config.model.d_ff = 18
    message = refused(load, workdir, config=config, weights="latest")
    assert "model.d_ff: 14 in the workdir, 18 now" in message
    shutil.rmtree(workdir / "checkpoints")
    message = refused(train, config, workdir)
    assert "d_ff" in message and "and has no checkpoint yet: remove it" in message


def test_the_tokenizer_of_a_workdir_is_used(trained, tmp_path, capsys):
    given = (trained[0] / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(given)
    options = {"data.train_size": 300, "train.steps": 1}  # enough text to train another
    message = refused(train, tiny_config(options | {"data.vocab_size": 702}), tmp_path)
    assert "has 701 pieces, but data.vocab_size=702" in message
    train(tiny_config(options), tmp_path)
    assert (tmp_path / "tokenizer.model").read_bytes() == given
    assert f"the tokenizer in {tmp_path} is used; none is trained" in capsys.readouterr().err


def test_a_run_that_stops_names_the_last_checkpoint_that_was_good(workdir, monkeypatch):
    def check(self, step, metrics):
        if step == 8:
            raise health.TrainingStopped("the loss diverged", 5)

    monkeypatch.setattr(health.Health, "check", check)
    message = refused(train, longer(workdir, 9), workdir)
    assert message == "the loss diverged; the last good checkpoint is 4"


def test_too_many_skipped_steps_stop_the_run_and_can_be_replayed(tmp_path):
    options = {"train.steps": 9, "train.max_skipped": 4, "train.evaluate_every": 0}
    config = tiny_config(options | {"optimizer.learning_rate_scale": 1e30})
    stops = r"4 steps in a row were skipped, .* is (nan|inf) .*last good step is 0.*checkpoint is 2"
    assert re.search(stops, refused(train, config, tmp_path))
    pairs = corpora.load_split(config.data, "train").pairs
    report = replay_step(config, tmp_path, 3)
    assert report.startswith("step 3: 0 of 4 rows are not finite here"), report
    assert any(" → ".join(pair) in report for pair in pairs), report


def test_a_row_that_is_not_finite_is_skipped_and_found(tmp_path, monkeypatch, capsys):
    """NaN in one row at step 3: the others train on, and replaying names the row."""
    options = {"train.steps": 5, "train.checkpoint_every": 5, "train.evaluate_every": 0}
    config = tiny_config(options | {"model.dropout_rate": 0.1})
    poison(monkeypatch, step=3, row=1)
    train(config, tmp_path)
    metrics = [row["train"] for row in json_lines(tmp_path / "metrics.jsonl") if "train" in row]
    assert [m["loss"] is None for m in metrics] == [False, False, True, False, False]
    assert metrics[-1]["skipped"] == 1
    assert "--mode=replay --step=3 shows its rows" in capsys.readouterr().err
    lines = replay_step(config, tmp_path, 3).splitlines()
    assert lines[0] == "step 3: 1 of 4 rows are not finite"
    assert lines[2].split()[:2] == ["1", "nan"]


def test_a_run_resumes_from_the_checkpoint_before_the_damaged_one(workdir, capsys):
    for path in (workdir / "checkpoints" / "4" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    config = longer(workdir)
    train(config, workdir)
    logged = capsys.readouterr().err
    assert "step 4 is damaged" in logged and "resuming from step 2" in logged
    assert load(workdir, config=config, weights="average").steps == ([4, 6],)


def test_a_stretched_schedule_is_logged_and_a_few_steps_are_profiled(workdir, tmp_path, capsys):
    train(longer(workdir, 20), workdir, profile=str(tmp_path / "trace"))
    assert "the rest of the cosine schedule is stretched" in capsys.readouterr().err
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


@pytest.mark.parametrize("question", ["我有一只猫", "猫" * 3000])
def test_the_prompt(workdir, question, monkeypatch, capsys):
    answers = iter([question, "他是老师", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    translate(config_of(workdir), workdir, None, None, weights="latest", n_best=1)
    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert out.startswith("too long to translate\n") == (len(question) > 1000)


def test_evaluate(workdir, capsys):
    scores = evaluate(config_of(workdir), workdir, split="longer", weights="best")
    assert scores.sentences == 30
    printed = capsys.readouterr().out
    assert "longer, weights best of step" in printed
    kinds = json.loads((workdir / "evaluation/longer/scores.json").read_text())["bins"]
    assert list(kinds) == [SOURCE_LENGTH, RAREST_WORD]
    for kind, bins in kinds.items():
        assert f"\n{kind} " in printed
        assert sum(b["sentences"] for b in bins) == 30
    pairs = corpora.load_split(config_of(workdir).data, "longer").pairs
    records = json_lines(workdir / "evaluation" / "longer" / "translations.jsonl")
    assert [(record["source"], record["reference"]) for record in records] == pairs
    error = refusal("--mode=evaluate", f"--workdir={workdir}", "--split=lnoger")
    assert "has no split 'lnoger', only train, valid, test, longer (did you mean longer?)" in error


# -------------------------------------------------------------------------------------- translate
def test_input_and_output_files(workdir, tmp_path, capsys):
    lines = ["我有一只猫", "", "猫" * 1100, "他是老师。\r", "a\u2028b"]
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes("\n".join(lines).encode() + b"\n")
    translate(config_of(workdir), workdir, source, output, weights="latest")
    translations = output.read_text(encoding="utf-8").split("\n")
    assert len(translations) == len(lines) + 1
    assert (translations[1:3], translations[-1]) == (["", ""], "")
    captured = capsys.readouterr()
    assert captured.err == "line 3: too long to translate, left empty\n"
    assert captured.out == ""
    elsewhere = tmp_path / "no" / "out.txt"
    assert "cannot write" in refused(translate, config_of(workdir), workdir, source, elsewhere)


def test_the_n_best_have_scores(workdir, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("我有一只猫\n", encoding="utf-8")
    config = config_of(workdir)
    config.decode.method, config.decode.beam_size = "beam", 3
    translate(config, workdir, tmp_path / "in.txt", None, n_best=2)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [len(line) for line in lines] == [3, 3]
    assert [line[0] for line in lines] == ["1", "1"]
    assert float(lines[0][1]) >= float(lines[1][1])
    greedy = config_of(workdir), workdir, None, None
    assert re.search("n_best=2 .* at most 1", refused(translate, *greedy, n_best=2))


@pytest.mark.parametrize("batch_lines", [1, 2])
def test_a_program_keeps_it_running(workdir, tmp_path, batch_lines):
    """Each answer comes while the pipe is open, and is that of the line in a file."""
    lines, source, output = (
        ["我有一只猫", "猫" * 1100, "他是老师", "", "猫"],
        *(tmp_path / n for n in "io"),
    )
    source.write_text("\n".join(lines), encoding="utf-8")
    sampling = ["--weights=latest", "--config.decode.method=sample"]
    config = config_of(workdir)
    config.decode.method = "sample"
    translate(config, workdir, source, output, weights="latest")
    expected = output.read_text(encoding="utf-8").splitlines()
    command = ["launch.py", "--mode=translate", f"--workdir={workdir}", *sampling]
    with subprocess.Popen(
        [sys.executable, *command, f"--batch_lines={batch_lines}"],
        cwd=ROOT, encoding="utf-8", bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as translator:  # fmt: skip
        limit = threading.Timer(300, translator.kill)
        limit.start()
        for start in range(0, 4, batch_lines):
            for line in lines[start : start + batch_lines]:
                print(line, file=translator.stdin)
            for answer in expected[start : start + batch_lines]:
                assert translator.stdout.readline() == answer + "\n"
        rest, errors = translator.communicate(lines[4])  # without the end of its line
        limit.cancel()
    assert (rest, translator.returncode) == (expected[4] + "\n", 0)
    assert errors == "line 2: too long to translate, left empty\n"


def test_what_keeps_running_reads_no_file(workdir):
    error = refused(in_process, "translate", workdir, batch_lines=1, input="a.txt")
    assert "leave out --input" in error


# ----------------------------------------------------------------------- mistakes, in one line each
def test_a_workdir_that_is_missing_or_cannot_be_created_or_has_no_checkpoint(workdir, tmp_path):
    new = tmp_path / "nothing"
    error = refusal("--mode=translate", f"--workdir={new}", text="我\n")
    assert f"{new} is not a workdir (it has no config.json): train there first" in error
    assert not new.exists()
    new.write_text("")
    error = refusal(f"--workdir={new}/run", *FLAGS)
    assert f"cannot write to {new}/run: Not a directory" in error
    shutil.rmtree(workdir / "checkpoints")
    error = refusal("--mode=evaluate", f"--workdir={workdir}")
    assert f"{workdir} has no checkpoint: train there first" in error


def test_a_truncated_tokenizer(workdir, tmp_path):
    path = workdir / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:1000])
    output = tmp_path / "out.txt"
    error = refusal("--mode=translate", f"--workdir={workdir}", f"--output={output}", text="我\n")
    assert f"{path} is not the one that checkpoint 4 was trained with" in error
    assert not output.exists()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--config=experiments/quikstart.py"], "did you mean experiments/quickstart.py?"),
        (["translate"], "unexpected argument 'translate'; did you mean --mode=translate?"),
        (["--mode=describe", "--config.model.num_heads=7"], "model.num_heads=7"),
    ],
)
def test_a_mistyped_command_line(arguments, part):
    assert part in refusal(*arguments, real=True)


# ------------------------------------------------------------------------------------ bad corpora
@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"train": "a.zh,missing"}, ["missing", "does not exist"]),
        ({"source_row_length": 2}, ["none of 54 pairs", "data.source_row_length", " 2 and 64 "]),
        ({"vocab_size": 50_021}, ["data.vocab_size=50021"]),
        ({"held_out_size": 40}, ["data.held_out_size=40"]),
    ],
    ids=["missing", "all too long", "vocabulary too large", "all held out"],
)
def test_a_corpus_that_cannot_be_trained_on(tmp_path, data, parts):
    for name in ("a.zh", "a.en"):
        (tmp_path / name).write_text("".join(f"句子{i}\n" for i in range(60)))
    files = {"corpus": "files", "path": str(tmp_path), "train": "a.zh,a.en", "train_size": 0}
    options = files | {"held_out_size": 3, "vocab_size": 300} | data
    config = tiny_config({f"data.{name}": value for name, value in options.items()})
    message = refused(train, config, tmp_path / "run")
    assert all(part in message for part in parts), message
    assert not list((tmp_path / "run").rglob("*.tmp"))
