"""What a run reports: metrics.jsonl, samples and TensorBoard, across restarts."""

import json
import math
import struct
import sys

import pytest
from launching import fill

from transformer_jax import console
from transformer_jax.workdir import tracking
from transformer_jax.workdir.metrics import read_metrics, remove_rows_after, skipped_steps
from transformer_jax.workdir.tracking import Tracker

METRICS = {"loss": 2.5, "source_tokens": 30.0, "target_tokens": 34.0, "gradient_norm": 0.5}


def tracker(workdir, **options):
    given = {"first_step": 0, "num_steps": 7, "log_every": 3, "tensorboard": False} | options
    return Tracker(workdir, **given)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def run(workdir, first, last, **options):
    t = tracker(workdir, first_step=first, **options)
    for step in range(first + 1, last + 1):
        t.train_step(step, METRICS | {"loss": 10.0 * first + step})
    t.close()


@pytest.mark.fast
def test_every_third_step_and_the_last_are_written(tmp_path):
    run(tmp_path, 0, 7)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [3, 6, 7]
    assert [row["train"]["loss"] for row in found] == [3.0, 6.0, 7.0]
    for row in found:
        assert set(row["train"]) == {*METRICS, "tokens_per_second"}
        assert row["train"]["tokens_per_second"] > 0


def test_tokens_per_second_counts_both_sides_since_the_last_row(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 10))  # each look at the clock is ten seconds later
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))
    t = tracker(tmp_path)
    for step in range(1, 7):
        t.train_step(step, METRICS)
    t.close()
    # Between two rows: one look when the clock restarts, one at the row.
    assert [row["train"]["tokens_per_second"] for row in rows(tmp_path)] == [3 * 64 / 10] * 2


def test_groups_are_written_beside_the_step(tmp_path):
    t = tracker(tmp_path)
    t.write(4, {"valid": {"loss": 1.5, "bleu": 20.0}})
    assert rows(tmp_path)[0]["valid"] == {"loss": 1.5, "bleu": 20.0}, "at once, not at the end"
    t.close()


@pytest.mark.fast
def test_a_restart_rewrites_the_rows_after_the_restored_step(tmp_path):
    run(tmp_path, 0, 6, log_every=1)
    run(tmp_path, 4, 7, log_every=1)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["train"]["loss"] for row in found] == [1, 2, 3, 4, 45, 46, 47]


def test_a_run_from_the_start_forgets_everything(tmp_path):
    run(tmp_path, 0, 6, log_every=1)
    run(tmp_path, 0, 2, log_every=1)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


@pytest.mark.parametrize("torn", ['{"step": 4, "ti', '{"step": 4}', "{"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    run(tmp_path, 0, 3, log_every=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    run(tmp_path, 4, 5, log_every=1)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 5]


def test_without_tensorboardx_the_run_continues_and_logs_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run(tmp_path, 0, 3, tensorboard=True)
    assert [row["step"] for row in rows(tmp_path)] == [3]
    error = capsys.readouterr().err
    assert "pip install 'transformer_jax[tensorboard]'" in error
    assert "--config.train.tensorboard=False" in error
    assert not (tmp_path / "tensorboard").exists()


def test_without_train_tensorboard_its_package_is_not_mentioned(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run(tmp_path, 0, 3, tensorboard=False)
    assert "TensorBoard" not in capsys.readouterr().err


def events(workdir):
    """What TensorBoard's files hold, by their format: length, its check, data, its check."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            assert len(content) >= 16 + length, "the last record is whole"
            found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_tensorboard_gets_the_same_numbers_as_the_rows(tmp_path):
    run(tmp_path, 3, 6, tensorboard=True)
    version, start, *written = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (4, start.session_log.START), "forget the rest"
    expected = rows(tmp_path)[0]["train"]
    scalars = {e.summary.value[0].tag: e.summary.value[0].simple_value for e in written}
    assert {e.step for e in written} == {6}
    assert scalars == {f"train/{name}": pytest.approx(v) for name, v in expected.items()}


def test_tensorboard_gets_what_is_not_finite(tmp_path):
    t = tracker(tmp_path, tensorboard=True)
    t.write(4, {"valid": {"loss": math.inf, "bleu": math.nan}})
    t.flush()
    values = [e.summary.value[0].simple_value for e in events(tmp_path)[2:]]
    assert values[0] == math.inf
    assert math.isnan(values[1])
    t.close()


def test_a_skipped_step_is_written_whatever_its_number(tmp_path):
    t = tracker(tmp_path)
    for step in range(1, 8):
        t.train_step(step, METRICS | {"loss": math.nan if step == 4 else 1.0, "skipped": step // 4})
    t.close()
    assert [(row["step"], row["train"]["loss"]) for row in rows(tmp_path)] == [
        (3, 1.0), (4, None), (6, 1.0), (7, 1.0),
    ]  # fmt: skip
    assert skipped_steps(tmp_path) == 1
    remove_rows_after(tmp_path / "metrics.jsonl", 3)
    assert skipped_steps(tmp_path) == 0


def test_on_a_full_disk_rows_wait_and_tensorboard_ends(small_disk, capsys):
    t = tracker(small_disk, num_steps=200, log_every=1, tensorboard=True)
    t.train_step(1, METRICS)
    t.flush()
    filler = fill(small_disk)
    for step in range(2, 101):
        t.train_step(step, METRICS)
    t.flush()
    assert read_metrics(small_disk / "metrics.jsonl")[-1]["step"] < 50
    filler.unlink()
    t.train_step(101, METRICS)
    assert [row["step"] for row in rows(small_disk)] == list(range(1, 102)), "none is lost"
    fill(small_disk)
    for step in range(102, 201):
        t.train_step(step, METRICS)
    t.close()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    waits = "warning: metrics.jsonl cannot be written yet: No space left on device"
    ends = "warning: TensorBoard's files end here: No space left on device"
    lacks = "warning: metrics.jsonl lacks its last rows"
    assert sorted(warnings) == [ends, waits, waits, lacks]


def test_progress_goes_to_standard_error_line_by_line(tmp_path, capsys):
    run(tmp_path, 0, 7)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split()[1] for line in lines] == ["3/7", "6/7", "7/7"]
    assert all("loss" in line and "tokens/s" in line for line in lines)
    assert lines[-1].endswith("0:00:00 left")


def test_clock():
    assert [console.clock(s) for s in (0, 59.9, 61, 3661, 90_000)] == [
        "0:00:00", "0:00:59", "0:01:01", "1:01:01", "25:00:00",
    ]  # fmt: skip


# --------------------------------------------------------------------------------------- samples
def samples(workdir):
    return read_metrics(workdir / "samples.jsonl")


def validate(t, step, translation="ein Hund"):
    t.write_samples(step, [{"source": "a dog", "reference": "r", "translation": translation}])
    t.write(step, {"valid": {"loss": 1.0, "bleu": 2.0}})


def test_samples_of_each_validation_are_kept(tmp_path):
    t = tracker(tmp_path)
    text = "我有\u2028一只猫\n\tx"
    validate(t, 3, text)
    assert samples(tmp_path)[0] == {
        "step": 3, "source": "a dog", "reference": "r", "translation": text,
    }  # fmt: skip
    assert "一只猫" in (tmp_path / "samples.jsonl").read_text(encoding="utf-8"), "for people, too"
    t.close()


def test_a_restart_forgets_samples_as_it_forgets_metrics(tmp_path):
    t = tracker(tmp_path)
    for step in (2, 4, 6):
        validate(t, step, f"old {step}")
    t.close()
    t = tracker(tmp_path, first_step=4)
    validate(t, 6, "new 6")
    t.close()
    assert [row["translation"] for row in samples(tmp_path)] == ["old 2", "old 4", "new 6"]


def test_a_validation_that_was_killed_between_samples_and_metrics_is_no_double(tmp_path):
    t = tracker(tmp_path)
    validate(t, 2)
    t.write_samples(4, [{"translation": "lost"}])
    t.close()
    t = tracker(tmp_path, first_step=4)
    validate(t, 4, "again")
    t.close()
    assert [row["step"] for row in samples(tmp_path)] == [2, 4]
    assert samples(tmp_path)[1]["translation"] == "again"


# ----------------------------------------------------------------------------- in TensorBoard
def test_tensorboard_gets_the_options_and_what_they_are_judged_by(tmp_path):
    hparams_pb2 = pytest.importorskip("tensorboardX.proto.plugin_hparams_pb2")
    options = {"model.num_layers": 3, "model.remat": True, "name": "猫", "data.path": ""}
    t = tracker(tmp_path, tensorboard=True, first_step=4)
    t.write_options(options)
    t.close()
    written = events(tmp_path)[2:]
    values = {e.summary.value[0].tag: e.summary.value[0].metadata.plugin_data for e in written}
    assert [e.step for e in written] == [4, 4]
    assert list(values) == ["_hparams_/experiment", "_hparams_/session_start_info"]
    assert {data.plugin_name for data in values.values()} == {"hparams"}
    experiment, start = (
        hparams_pb2.HParamsPluginData.FromString(data.content) for data in values.values()
    )
    assert [info.name for info in experiment.experiment.hparam_infos] == list(options)
    metrics = [info.name.tag for info in experiment.experiment.metric_infos]
    assert metrics == ["valid/loss", "valid/bleu"]
    given = start.session_start_info.hparams.items()
    assert {name: getattr(v, v.WhichOneof("kind")) for name, v in given} == options


def test_tensorboard_gets_the_samples_as_they_are(tmp_path):
    pytest.importorskip("tensorboardX")
    t = tracker(tmp_path, tensorboard=True)
    validate(t, 3, "<b>ein</b>\n# *Hund*")
    t.close()
    event = next(e for e in events(tmp_path) if "samples" in str(e.summary))
    (value,) = event.summary.value
    assert (event.step, value.tag) == (3, "samples/1/text_summary")
    assert value.metadata.plugin_data.plugin_name == "text"
    (text,) = value.tensor.string_val
    assert text.decode().splitlines() == [
        "    source       a dog",
        "    reference    r",
        "    translation  <b>ein</b> # *Hund*",
    ]
