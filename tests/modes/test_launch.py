"""The launcher from end to end: what a user types, in processes of its own where that matters."""

import json
import shutil
import sys

import pytest
from failures import poison
from launching import FLAGS, TINY, evaluate, launch, refusal, translate

from transformer_jax.config.files import load_config, save_config
from transformer_jax.config.options import Config, DataConfig, ModelConfig, TrainConfig, flatten
from transformer_jax.data import corpora
from transformer_jax.data.batches import PackedDataset
from transformer_jax.errors import UserError
from transformer_jax.inference.trained import load
from transformer_jax.training import health
from transformer_jax.training.run import replay_step, train


def config_of(workdir):
    return load_config(workdir / "config.json")


def tiny_config(data=None, **options):
    """An experiment to train in this process, with options of `train`."""
    default = {"train_size": 500, "held_out_size": 30, "vocab_size": 701}
    off = {"evaluate_every": 0, "tensorboard": False}
    return Config(
        data=DataConfig(batch_rows=4, **(default if data is None else data)),
        model=ModelConfig(num_layers=1, d_model=8, d_ff=14, num_heads=2),
        train=TrainConfig(**off | options),
    )


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ----------------------------------------------------------------------------------- end to end
@pytest.mark.fast
def test_training_evaluates_and_shows_the_demo(trained):
    workdir, done = trained
    assert "Traceback" not in done.stderr
    assert "step 4/4" in done.stderr
    assert "resuming from step" not in done.stderr
    assert "我有一只猫 → " in done.stdout
    assert "BLEU" in done.stdout
    assert "test, weights average of step 2, 4" in done.stdout
    names = {path.name for path in workdir.iterdir()}
    assert {"config.json", "tokenizer.model", "checkpoints", "metrics.jsonl", "evaluation"} <= names
    assert not list(workdir.rglob("*.tmp"))
    options = flatten(config_of(workdir))
    assert {name: options[name] for name in TINY} == TINY
    metrics = rows(workdir / "metrics.jsonl")
    assert [row["step"] for row in metrics if "train" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in metrics if "valid" in row] == [4]
    scores = json.loads((workdir / "evaluation" / "test" / "scores.json").read_text())
    assert scores["steps"] == [2, 4]
    assert scores["sentences"] == len(rows(workdir / "evaluation" / "test" / "translations.jsonl"))


def test_a_training_with_tensorboard_and_all_the_held_out_pairs(tmp_path):
    """Which the other trainings of the tests leave out."""
    options = ["--config.train.tensorboard=True", "--config.data.held_out_size=1000"]
    done = launch(f"--workdir={tmp_path}", *FLAGS, *options, "--config.train.evaluate_every=2")
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path / "evaluation" / "test" / "translations.jsonl")) == 1000
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")


@pytest.mark.fast
def test_three_lines_in_three_lines_out(workdir):
    done = launch(
        "--mode=translate", f"--workdir={workdir}", text="我有一只猫\n\n他是老师。\n", real=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert len(lines) == 4
    assert (lines[1], lines[3]) == ("", "")
    assert done.stderr == ""


@pytest.mark.fast
def test_describe():
    done = launch("--mode=describe", *FLAGS, real=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[-1] == ["total", f"{sum(int(row[-1].replace(',', '')) for row in table[:-1]):,}"]


# ---------------------------------------------------------------------------------------- resume
def test_training_resumes_at_its_step(workdir, capsys, monkeypatch):
    config = config_of(workdir)
    config.train.steps, config.train.evaluate_every = 6, 0
    steps, batch = [], PackedDataset.batch
    monkeypatch.setattr(
        PackedDataset,
        "batch",
        lambda data, step, rows: steps.append(step) or batch(data, step, rows),
    )
    train(config, workdir)
    assert steps == [4, 5]
    assert "resuming from step 4" in capsys.readouterr().err
    assert [row["step"] for row in rows(workdir / "metrics.jsonl") if "train" in row] == (
        [1, 2, 3, 4, 5, 6]
    )
    assert config_of(workdir) == config
    trained_on = load(workdir, config=config, weights="latest")
    assert trained_on.steps == ([6],)


def test_fewer_steps_than_have_been_trained_are_refused(workdir):
    config = config_of(workdir)
    config.train.steps = 2
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"train\.steps=2, but 4 steps are done"):
        train(config, workdir)
    assert (workdir / "config.json").read_bytes() == before
    with pytest.raises(UserError, match="--profile needs 15 steps, and 0 are left"):
        train(config_of(workdir), workdir, profile="somewhere")


def test_a_workdir_without_checkpoint_may_be_removed(workdir):
    shutil.rmtree(workdir / "checkpoints")
    config = config_of(workdir)
    config.model.d_ff = 15
    with pytest.raises(UserError, match=r"d_ff.* and has no checkpoint yet: remove it"):
        train(config, workdir)


def test_another_configuration_is_refused(workdir):
    before = config_of(workdir)
    error = refusal(f"--workdir={workdir}", "--config.model.d_ff=18")
    assert "model.d_ff: 14 in the workdir, 18 now" in error
    assert config_of(workdir) == before


# --------------------------------------------------------------------------------------- evaluate
def test_weights_of_another_shape_are_refused(workdir):
    config = config_of(workdir)
    config.model.d_ff = 18
    with pytest.raises(UserError, match=r"model.d_ff: 14 in the workdir, 18 now"):
        load(workdir, config=config, weights="latest")


def test_another_training_text_is_refused(workdir):
    (workdir / "training_data.sha256").write_text("0123456789abcdef\n")
    with pytest.raises(UserError, match="the training text is not the one"):
        train(config_of(workdir), workdir)


def test_the_tokenizer_of_a_workdir_is_used(workdir, tmp_path):
    given = (workdir / "tokenizer.model").read_bytes()
    config = config_of(workdir)
    config.data.train_size = 300  # enough text to train another
    for size in (config.data.vocab_size + 1, config.data.vocab_size):
        fresh = tmp_path / str(size)
        fresh.mkdir()
        (fresh / "tokenizer.model").write_bytes(given)
        config.data.vocab_size = size
        if size == 702:
            with pytest.raises(UserError, match=r"has 701 pieces, but data.vocab_size=702"):
                train(config, fresh)
        else:
            config.train.steps = 1
            train(config, fresh)
        assert (fresh / "tokenizer.model").read_bytes() == given


def test_checkpoints_without_their_configuration_are_refused(workdir, capsys):
    config = config_of(workdir)
    config.train.steps, config.train.evaluate_every = 6, 0
    (workdir / "config.json").rename(workdir / "elsewhere")
    with pytest.raises(UserError, match=r"has checkpoints, but no config.json"):
        train(config, workdir)
    (workdir / "elsewhere").rename(workdir / "config.json")
    (workdir / "training_data.sha256").unlink()
    train(config, workdir)
    assert "has no training_data.sha256: cannot verify the training text" in capsys.readouterr().err
    assert (workdir / "training_data.sha256").exists()


def test_a_run_that_stops_names_the_last_checkpoint_that_was_good(workdir, monkeypatch):
    def check(self, step, metrics):
        if step == 8:
            raise health.TrainingStopped("the loss diverged", 5)

    monkeypatch.setattr(health.Health, "check", check)
    config = config_of(workdir)
    config.train.steps, config.train.evaluate_every = 9, 0
    with pytest.raises(UserError, match=r"^the loss diverged; the last good checkpoint is 4$"):
        train(config, workdir)


def test_too_many_skipped_steps_stop_the_run_and_can_be_replayed(tmp_path):
    config = tiny_config(steps=9, checkpoint_every=2, max_skipped=4)
    config.optimizer.learning_rate_scale = 1e30
    stops = r"4 steps in a row were skipped, .* is (nan|inf) .*last good step is 0.*checkpoint is 2"
    with pytest.raises(UserError, match=stops):
        train(config, tmp_path)
    pairs = corpora.load_split(config.data, "train").pairs
    report = replay_step(config, tmp_path, 3)
    assert report.startswith("step 3: 0 of 4 rows are not finite here"), report
    assert any(" → ".join(pair) in report for pair in pairs), report


def test_a_row_that_is_not_finite_is_skipped_and_found(tmp_path, monkeypatch, capsys):
    """NaN in one row at step 3: the others train on, and replaying names the row."""
    config = tiny_config(steps=5, checkpoint_every=5, log_every=1)
    config.model.dropout_rate = 0.1
    poison(monkeypatch, step=3, row=1)
    train(config, tmp_path)
    metrics = [row["train"] for row in rows(tmp_path / "metrics.jsonl") if "train" in row]
    assert [m["loss"] is None for m in metrics] == [False, False, True, False, False]
    assert metrics[-1]["skipped"] == 1
    assert "--mode=replay --step=3 shows its rows" in capsys.readouterr().err
    lines = replay_step(config, tmp_path, 3).splitlines()
    assert lines[0] == "step 3: 1 of 4 rows are not finite"
    assert lines[2].split()[:2] == ["1", "nan"]


def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(workdir, capsys):
    for path in (workdir / "checkpoints" / "4" / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    loaded = load(workdir, config=config_of(workdir), weights="latest")
    assert loaded.steps == ([2],)
    assert "the checkpoint of step 4 is damaged (params/" in capsys.readouterr().err
    config = config_of(workdir)
    config.train.steps, config.train.evaluate_every = 6, 0
    train(config, workdir)
    logged = capsys.readouterr().err
    assert "step 4 is damaged" in logged and "resuming from step 2" in logged
    assert (workdir / "damaged" / "4" / "params").is_dir()
    assert load(workdir, config=config, weights="average").steps == ([4, 6],)


def test_a_stretched_schedule_is_logged(workdir, capsys):
    config = config_of(workdir)
    config.optimizer.schedule = "cosine"
    save_config(config, workdir / "config.json")
    config.train.steps = 5
    train(config, workdir)
    assert "the rest of the cosine schedule is stretched" in capsys.readouterr().err


def test_a_profile_of_a_few_steps(workdir, tmp_path):
    config = config_of(workdir)
    config.train.steps = 20
    train(config, workdir, profile=str(tmp_path / "trace"))
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
    split, weights = "longer", "best"
    scores = evaluate(config_of(workdir), workdir, split=split, weights=weights)
    assert scores.sentences == 30
    assert f"{split}, weights {weights} of step" in capsys.readouterr().out
    folder = workdir / "evaluation" / split
    pairs = corpora.load_split(config_of(workdir).data, split).pairs
    records = rows(folder / "translations.jsonl")
    assert [(record["source"], record["reference"]) for record in records] == pairs


def test_an_unknown_split(workdir):
    error = refusal("--mode=evaluate", f"--workdir={workdir}", "--split=nonsense")
    assert "has no split 'nonsense', only train, valid, test, longer" in error
    with pytest.raises(UserError, match=r"did you mean longer\?"):
        evaluate(config_of(workdir), workdir, split="lnoger", weights="average")


# -------------------------------------------------------------------------------------- translate
def test_input_and_output_files(workdir, tmp_path, capsys):
    lines = ["我有一只猫", "", "猫" * 1100, "他是老师。\r", "a\u2028b"]
    (tmp_path / "in.txt").write_bytes("\n".join(lines).encode() + b"\n")
    files = str(tmp_path / "in.txt"), str(tmp_path / "out.txt")
    translate(config_of(workdir), workdir, *files, weights="latest", n_best=1)
    out = (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert out.endswith("\n")
    translations = out.split("\n")[:-1]
    assert len(translations) == len(lines)
    assert translations[1:3] == ["", ""]
    captured = capsys.readouterr()
    assert captured.err == "line 3: too long to translate, left empty\n"
    assert captured.out == ""


def test_the_n_best_have_scores(workdir, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("我有一只猫\n", encoding="utf-8")
    config = config_of(workdir)
    config.decode.method, config.decode.beam_size = "beam", 3
    translate(config, workdir, str(tmp_path / "in.txt"), None, weights="latest", n_best=2)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [len(line) for line in lines] == [3, 3]
    assert [line[0] for line in lines] == ["1", "1"]
    assert float(lines[0][1]) >= float(lines[1][1])


def test_more_translations_than_the_search_returns(workdir, tmp_path):
    with pytest.raises(UserError, match=r"n_best=2 .* at most 1"):
        translate(config_of(workdir), workdir, None, None, weights="latest", n_best=2)


def test_an_output_that_cannot_be_written(workdir, tmp_path):
    (tmp_path / "in.txt").write_text("我有一只猫\n", encoding="utf-8")
    files = str(tmp_path / "in.txt"), str(tmp_path / "no" / "out.txt")
    with pytest.raises(UserError, match="cannot write"):
        translate(config_of(workdir), workdir, *files, weights="latest", n_best=1)


# ----------------------------------------------------------------------- mistakes, in one line each
def test_a_missing_workdir(tmp_path):
    error = refusal("--mode=translate", f"--workdir={tmp_path}/nothing", text="我\n")
    assert (
        f"{tmp_path}/nothing is not a workdir (it has no config.json): train there first" in error
    )
    assert not (tmp_path / "nothing").exists()


def test_a_workdir_without_checkpoint(workdir):
    shutil.rmtree(workdir / "checkpoints")
    error = refusal("--mode=evaluate", f"--workdir={workdir}")
    assert f"{workdir} has no checkpoint: train there first" in error


def test_a_workdir_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    error = refusal(f"--workdir={tmp_path}/file/run", *FLAGS)
    assert f"cannot write to {tmp_path}/file/run: Not a directory" in error


def test_a_truncated_tokenizer(workdir, tmp_path):
    path = workdir / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:1000])
    output = tmp_path / "out.txt"
    error = refusal("--mode=translate", f"--workdir={workdir}", f"--output={output}", text="我\n")
    assert f"{path} is damaged" in error
    assert not output.exists()


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--config.model.num_layer=2"], "did you mean model.num_layers?"),
        (["--config=experiments/quikstart.py"], "did you mean experiments/quickstart.py?"),
        (["--mode=trian"], "--mode=trian"),
        (["--wrkdir=x"], "wrkdir"),
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
    files = {"corpus": "files", "path": str(tmp_path), "train": "a.zh,a.en"}
    config = tiny_config(data=files | {"held_out_size": 3, "vocab_size": 300} | data)
    with pytest.raises(UserError) as caught:
        train(config, tmp_path / "run")
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message
    assert not list((tmp_path / "run").rglob("*.tmp"))
