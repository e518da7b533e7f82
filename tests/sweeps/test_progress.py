"""What a person sees of a sweep while it runs, and at its end."""

import dataclasses
import doctest
import json
import math
import sys

import pytest

from transformer_jax import console
from transformer_jax.sweeps import progress, summary
from transformer_jax.sweeps.summary import Point
from transformer_jax.workdir import average

STATES = ["finished", "waiting", "running", "failed", "waiting"]


def row(step, seconds, **groups):
    return json.dumps({"step": step, "time": 1000.0 + seconds, **groups}) + "\n"


def test_the_docstring_example_of_a_table():
    assert doctest.testmod(console) == (0, 1)


def test_progress_is_read_from_the_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    seen = progress.Progress(tmp_path, 100)
    seen.refresh()
    assert (seen.step, seen.loss, seen.valid, seen.seconds_left) == (0, None, [], None)
    path.write_text(row(3, 6, train={"loss": 5}) + row(7, 14, train={"loss": 4}))
    seen.refresh()
    assert (seen.step, seen.loss, seen.valid, seen.validation) == (7, 4, [], {})
    assert seen.seconds_left == pytest.approx(2 * 93)
    text = path.read_text() + row(7, 15, valid={"loss": 3.5, "bleu": 11})
    path.write_text(text + row(8, 16, valid={"loss": None, "bleu": 12}) + '{"step": 9')
    seen.refresh()
    assert (seen.step, seen.valid[0], seen.validation["bleu"]) == (8, (7, 3.5), 12)
    assert math.isnan(seen.valid[1][1]), "it must not pass for a better loss"
    best = {"steps": [7, 8], "bleu": 13, "loss": 3.25}
    average.record(tmp_path, 8, [best])
    seen.refresh()
    assert seen.validation == best
    shown = progress.render([(Point("p", {}, "finished"), seen)], height=9, width=99)
    assert shown[1].split() == ["p", "finished", "8/100", "4.000", "3.250", "13.0"]


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        row(3, 6, train={"loss": 5}) + row(7, 14, train={"loss": 4}, valid={"loss": 3, "bleu": 11})
    )
    seen = progress.Progress(tmp_path, 100)
    seen.refresh()
    return [(Point(f"p{n}", {}, state, reason="why"), seen) for n, state in enumerate(STATES)]


def test_the_table_has_the_running_points_first_and_fits_the_terminal(lines):
    table = progress.render(lines, height=20, width=99)
    assert table[0].split() == ["point", "state", "step", "loss", "valid", "BLEU", "left"]
    assert table[1].split() == ["p2", "running", "7/100", "4.000", "3.000", "11.0", "0:03:06"]
    assert [line.split()[0] for line in table[2:-1]] == ["p3", "p0", "p1", "p4"]
    assert table[-1] == "1 running, 1 failed, 1 finished, 2 waiting"
    for height in range(3, 20):
        short = progress.render(lines, height=height, width=99)
        assert len(short) <= height and short[-1] == table[-1]
    two = progress.render(lines, height=5, width=99)
    assert [line.split()[0] for line in two] == ["point", "p2", "p3", "…", "1"]
    assert two[3] == "… and 3 more"

    long = "table3_laptop_C_d_model_1024_seed_0"
    lines = [(dataclasses.replace(point, name=long), seen) for point, seen in lines]
    whole, narrow = (progress.render(lines, height=20, width=width) for width in (200, 79))
    assert max(map(len, whole)) > 79 >= max(map(len, narrow))
    for (_, *cells), (name, *shown) in zip(
        map(str.split, whole[1:-1]), map(str.split, narrow[1:-1]), strict=True
    ):
        begin, end = name.split("…")
        assert long.startswith(begin) and long.endswith(end) and len(end) >= len("024_seed_0")
        assert shown == cells


def test_on_a_terminal_the_table_is_redrawn_in_place(lines, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    table = progress.Table()
    table.show(lines)
    drawn = capsys.readouterr().err
    assert "\x1b[7A" not in drawn and drawn.count("\n") == 7
    table.show(lines)
    assert capsys.readouterr().err.startswith("\x1b[7A"), "it goes up as far as it went down"


def test_elsewhere_each_change_of_state_is_a_line(lines, capsys):
    table = progress.Table()
    for _ in range(2):
        table.show(lines)
    assert capsys.readouterr().err.splitlines() == [
        "p0: finished: validation loss 3.0000, BLEU 11.0",
        "p2: running",
        "p3: failed: why",
    ]


def test_the_last_lines_of_a_sweep():
    good = [Point("a", {}, "finished", value=1.5), Point("b", {}, "finished", value=1.25)]
    assert summary.conclude([*good, Point("c", {}, "pruned")], search=True) == [
        "1 pruned, 2 finished; the least validation loss is 1.2500, of b"
    ]
    reason, last = summary.conclude([*good, Point("c", {}, "failed", reason="no")], search=False)
    assert reason == "c: failed: no"
    assert last.startswith("error: 1 of 3 points failed: see log.txt")
