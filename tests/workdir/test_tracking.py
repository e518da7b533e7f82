"""What a run reports: metrics.jsonl, samples and TensorBoard, across restarts."""

import math
import struct
import sys

import pytest
from launching import fill, json_lines

from transformer_jax import console
from transformer_jax.workdir import tracking
from transformer_jax.workdir.metrics import read_metrics, remove_rows_after, skipped_steps
from transformer_jax.workdir.tracking import Tracker

METRICS = {"loss": 2.5, "source_tokens": 30.0, "target_tokens": 34.0, "gradient_norm": 0.5}


@pytest.fixture
def tracker(tmp_path):
    """tracker(**options) of a run in tmp_path."""

    def make(workdir=tmp_path, **options):
        given = {"first_step": 0, "num_steps": 7, "log_every": 3, "tensorboard": False} | options
        return Tracker(workdir, **given)

    return make


@pytest.fixture
def run(tracker):
    """run(first, last): makes the steps after the first."""

    def call(first, last, **options):
        t = tracker(first_step=first, **options)
        for step in range(first + 1, last + 1):
            t.train_step(step, METRICS | {"loss": 10.0 * first + step})
        t.close()

    return call


@pytest.fixture
def rows(tmp_path):
    return lambda: json_lines(tmp_path / "metrics.jsonl")


@pytest.mark.fast
def test_every_third_step_and_the_last_are_written(run, rows):
    run(0, 7)
    found = rows()
    assert [row["step"] for row in found] == [3, 6, 7]
    assert [row["train"]["loss"] for row in found] == [3.0, 6.0, 7.0]
    for row in found:
        assert set(row["train"]) == {*METRICS, "tokens_per_second"}
        assert row["train"]["tokens_per_second"] > 0


def test_tokens_per_second_counts_both_sides_since_the_last_row(tracker, rows, monkeypatch):
    clock = iter(range(0, 1000, 10))  # each look at the clock is ten seconds later
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))
    t = tracker()
    for step in range(1, 7):
        t.train_step(step, METRICS)
    t.close()
    # Between two rows: one look when the clock restarts, one at the row.
    assert [row["train"]["tokens_per_second"] for row in rows()] == [3 * 64 / 10] * 2


@pytest.mark.fast
def test_a_restart_rewrites_the_rows_after_the_restored_step(run, rows):
    run(0, 6, log_every=1)
    run(4, 7, log_every=1)
    assert [row["step"] for row in rows()] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["train"]["loss"] for row in rows()] == [1, 2, 3, 4, 45, 46, 47]
    run(0, 2, log_every=1)
    assert [row["step"] for row in rows()] == [1, 2], "from the start it forgets everything"


@pytest.mark.parametrize("torn", ['{"step": 4, "ti', '{"step": 4}', "{"])
def test_a_torn_last_line_is_dropped(run, rows, tmp_path, torn):
    run(0, 3, log_every=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    run(4, 5, log_every=1)
    assert [row["step"] for row in rows()] == [1, 2, 3, 5]


@pytest.mark.parametrize("wanted", [True, False])
def test_without_tensorboardx_the_run_continues_and_logs_why(
    run, rows, tmp_path, wanted, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run(0, 3, tensorboard=wanted)
    assert [row["step"] for row in rows()] == [3]
    error = capsys.readouterr().err
    for part in ("transformer_jax[tensorboard]", "--config.train.tensorboard=False"):
        assert (part in error) == wanted
    assert not (tmp_path / "tensorboard").exists()


@pytest.fixture
def events(tmp_path):
    """events(): TensorBoard's, read by their format: length, its check, data, its check."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")

    def read():
        found = []
        for path in sorted((tmp_path / "tensorboard").iterdir()):
            content = path.read_bytes()
            while content:
                (length,) = struct.unpack("<Q", content[:8])
                assert len(content) >= 16 + length, "the last record is whole"
                found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
                content = content[16 + length :]
        return found

    return read


def test_tensorboard_gets_the_same_numbers_as_the_rows(run, rows, events):
    run(3, 6, tensorboard=True)
    version, start, *written = events()
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (4, start.session_log.START), "forget the rest"
    expected = rows()[0]["train"]
    scalars = {e.summary.value[0].tag: e.summary.value[0].simple_value for e in written}
    assert {e.step for e in written} == {6}
    assert scalars == {f"train/{name}": pytest.approx(v) for name, v in expected.items()}


def test_a_group_is_written_at_once_and_what_is_not_finite_to_tensorboard(tracker, rows, events):
    t = tracker(tensorboard=True)
    t.write(4, {"valid": {"loss": math.inf, "bleu": math.nan, "chrf": 20.0}})
    assert rows()[0]["valid"] == {"loss": None, "bleu": None, "chrf": 20.0}
    t.flush()
    values = [e.summary.value[0].simple_value for e in events()[2:]]
    assert values == [math.inf, pytest.approx(math.nan, nan_ok=True), 20.0]
    t.close()


def test_a_skipped_step_is_written_whatever_its_number(tracker, rows, tmp_path):
    t = tracker()
    for step in range(1, 8):
        t.train_step(step, METRICS | {"loss": math.nan if step == 4 else 1.0, "skipped": step // 4})
    t.close()
    losses = {row["step"]: row["train"]["loss"] for row in rows()}
    assert losses == {3: 1.0, 4: None, 6: 1.0, 7: 1.0}
    assert skipped_steps(tmp_path) == 1
    remove_rows_after(tmp_path / "metrics.jsonl", 3)
    assert skipped_steps(tmp_path) == 0


def test_on_a_full_disk_rows_wait_and_tensorboard_ends(tracker, small_disk, capsys):
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
    assert [row["step"] for row in json_lines(small_disk / "metrics.jsonl")] == list(
        range(1, 102)
    ), "none is lost"
    fill(small_disk)
    for step in range(102, 201):
        t.train_step(step, METRICS)
    t.close()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    waits = "warning: metrics.jsonl cannot be written yet: No space left on device"
    ends = "warning: TensorBoard's files end here: No space left on device"
    lacks = "warning: metrics.jsonl lacks its last rows"
    assert sorted(warnings) == [ends, waits, waits, lacks]


def test_progress_goes_to_standard_error_line_by_line(run, capsys):
    run(0, 7)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split()[1] for line in lines] == ["3/7", "6/7", "7/7"]
    assert all("loss" in line and "tokens/s" in line for line in lines)
    assert lines[-1].endswith("0:00:00 left")


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [(0, "0:00:00"), (59.9, "0:00:59"), (61, "0:01:01"), (3661, "1:01:01"), (90_000, "25:00:00")],
)
def test_clock(seconds, clock):
    assert console.clock(seconds) == clock


# --------------------------------------------------------------------------------------- samples
@pytest.fixture
def samples(tmp_path):
    return lambda: json_lines(tmp_path / "samples.jsonl")


def validate(t, step, translation="ein Hund"):
    t.write_samples(step, [{"source": "a dog", "reference": "r", "translation": translation}])
    t.write(step, {"valid": {"loss": 1.0, "bleu": 2.0}})


def test_samples_are_kept_as_they_are(tracker, samples, tmp_path):
    t = tracker()
    text = "我有\u2028一只猫\n\tx"
    validate(t, 3, text)
    t.close()
    assert samples() == [
        {"step": 3, "source": "a dog", "reference": "r", "translation": text},
    ]
    assert "一只猫" in (tmp_path / "samples.jsonl").read_text(encoding="utf-8"), "for people, too"


def test_a_restart_forgets_samples_as_it_forgets_metrics(tracker, samples):
    """Also those of a validation that was killed between its samples and its metrics."""
    t = tracker()
    for step in (2, 4):
        validate(t, step, f"old {step}")
    t.write_samples(6, [{"translation": "lost"}])
    t.close()
    t = tracker(first_step=4)
    validate(t, 6, "new 6")
    t.close()
    assert [row["translation"] for row in samples()] == ["old 2", "old 4", "new 6"]


# ----------------------------------------------------------------------------- in TensorBoard


def plugin_values(events):
    """The summary values that a plugin reads."""
    values = (value for event in events() for value in event.summary.value)
    return [value for value in values if value.metadata.plugin_data.plugin_name]


def test_tensorboard_gets_the_options_and_what_they_are_judged_by(tracker, events):
    hparams = pytest.importorskip("tensorboardX.proto.plugin_hparams_pb2").HParamsPluginData
    options = {"model.num_layers": 3, "model.remat": True, "name": "猫", "data.path": ""}
    t = tracker(tensorboard=True, first_step=4)
    t.write_options(options)
    t.close()
    values = plugin_values(events)
    assert [value.tag for value in values] == [
        "_hparams_/experiment", "_hparams_/session_start_info",
    ]  # fmt: skip
    data = [value.metadata.plugin_data for value in values]
    assert {plugin.plugin_name for plugin in data} == {"hparams"}
    experiment, start = (hparams.FromString(plugin.content) for plugin in data)
    assert [info.name for info in experiment.experiment.hparam_infos] == list(options)
    metrics = [info.name.tag for info in experiment.experiment.metric_infos]
    assert metrics == ["valid/loss", "valid/bleu"]
    given = start.session_start_info.hparams
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in given.items()}
    assert found == options


def test_tensorboard_gets_the_samples_as_they_are(tracker, events):
    t = tracker(tensorboard=True)
    validate(t, 3, "<b>ein</b>\n# *Hund*")
    t.close()
    (value,) = plugin_values(events)
    assert (value.tag, value.metadata.plugin_data.plugin_name) == ("samples/1/text_summary", "text")
    assert value.tensor.string_val[0].decode().splitlines() == [
        "    source       a dog",
        "    reference    r",
        "    translation  <b>ein</b> # *Hund*",
    ]
