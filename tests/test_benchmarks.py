"""The benchmarks run at a toy size: that for accelerators on a CPU, too."""

import importlib
import json
import math
import os
import re
import subprocess
import sys

import pytest
from launching import ROOT
from toy import PAIRS


def output_of(benchmark, *flags):
    """What a benchmark prints, on a CPU."""
    command = [sys.executable, str(ROOT / "benchmarks" / benchmark), *map(str, flags)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_gpu_at_toy_size():
    lines = output_of("gpu.py", "--toy").splitlines()
    results = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(r["model"][-4:], r["rows"]) for r in results] == [
        *(("base", 2), ("base", 4)),
        *(("_big", 2), ("_big", 4)),
    ]
    for r in results:
        # 2 sides of 256 positions a row, 95 % of them real.
        speed = r["rows"] * 2 * 3 * int(0.95 * 256 / 3) / r["seconds_per_step"]
        assert abs(r["tokens_per_second"] / speed - 1) < 1e-6
        assert r["mfu"] > 0


@pytest.mark.slow
def test_choice_at_toy_size(workdir):
    flags = f"--workdir={workdir}", "--sentences=3", "--candidates=2"
    rows = [line.rsplit(maxsplit=7) for line in output_of("choice.py", *flags).splitlines()[2:]]
    assert [name.strip() for name, *_ in rows] == [
        "greedy", "beam 4", "beam 2", "beam 2, mbr chrf", "beam 2, mbr bleu",
        "sample 2, mbr chrf", "sample 2, mbr bleu",
    ]  # fmt: skip
    assert all(float(rate) > 0 for *_, rate in rows)


def test_decoding_at_toy_size(trained):
    """A row for the workdir and one for the untrained model."""
    for peer in ("ctranslate2", "safetensors", "torch", "transformers"):
        pytest.importorskip(peer, reason="a peer; `make parity` installs it")
    sizes = ["--base=toy", "--batches=2", "--beams=1", "--sentences=3", "--rounds=2"]
    printed = output_of("decode.py", f"--workdir={trained[0]}", *sizes)
    table = [line for line in printed.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table)
    assert [len(row) for row in rows] == [len(head)] * 2
    assert [row[1:3] for row in rows] == [["2", "1"]] * 2
    for row in rows:
        assert float(row[3]) > 0
        assert all(re.match(r"\*\*\d+\.\d\d×\*\* \(", cell) for cell in row[4:8])
        assert re.match(r"([0-3] / ){3}[0-3] of 3$", row[-1])


def test_the_cost_of_lines_is_that_of_so_many(monkeypatch):
    for peer in ("ctranslate2", "safetensors", "torch", "transformers"):
        pytest.importorskip(peer, reason="a peer; `make parity` installs it")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    decode, asked = importlib.import_module("decode"), []
    monkeypatch.setattr(decode, "ours", lambda model: lambda *given: asked.append(given))
    subject = decode.Subject("toy", None, [*"abcdefgh"])
    row = decode.cost_of_lines(subject, 5, beam=4, rounds=3)
    assert row[:4] == ["toy", "4", "5", "8"]
    assert re.match(r"\*\*\d+\.\d\d×\*\* \(", row[4])
    (few, *how), (more, *_) = asked[:2]
    assert how == [8, 4]
    assert few == more[:5]
    assert sorted(more) == subject.sentences != more
    assert asked == asked[:2] * 5, "two rounds warm up"
    with pytest.raises(SystemExit, match="needs 16 sentences"):
        decode.cost_of_lines(subject, 9, beam=4, rounds=3)


@pytest.mark.slow
def test_starting_at_toy_size(workdir):
    printed = output_of("start.py", f"--workdir={workdir}", "--rounds=1")
    (head, *rows), (_, *answers) = (part.splitlines() for part in printed.split("\n\n"))
    for row in answers:
        first, median, slow = map(float, row.split()[2:])
        assert 0 < median <= slow
        assert median < first, "a start takes longer than an answer"
    assert [row.split()[0] for row in answers] == ["first", "second"]
    rows = [re.split(r"\s{2,}", row.strip()) for row in rows]
    assert re.split(r"\s{2,}", head) == ["seconds", "first start", "second start", "of processor"]
    seconds = {name: list(map(float, numbers)) for name, *numbers in rows}
    assert list(seconds) == [
        "python", "import jax", "import transformer_jax", "--help", "first line of a mode",
        "echo … | --mode=translate", "first step of training", "end of training",
    ]  # fmt: skip
    assert math.isnan(seconds["end of training"].pop()), "of the processors it is not known"
    assert all(number > 0 for numbers in seconds.values() for number in numbers)
    _, alone, _ = seconds["import jax"]
    for name in ("echo … | --mode=translate", "first step of training"):
        assert seconds[name][2] > alone, "these compute"


@pytest.mark.slow
def test_tracking_at_toy_size():
    pytest.importorskip("tensorboardX")
    *_, line = output_of("tracking.py", "--steps=2", "--log_every=1").splitlines()
    pattern = r"steps (\d+\.\d+) s, tracking (\d+\.\d+) ms: (\d+\.\d+) %"
    steps, tracking, share = map(float, re.fullmatch(pattern, line).groups())
    assert min(steps, tracking) > 0
    assert abs(share - tracking / steps / 10) < 0.02, "but for rounding"


@pytest.mark.slow
def test_data_at_toy_size(tmp_path):
    pairs = 1000
    printed = output_of("data.py", f"--folder={tmp_path}", f"--pairs={pairs}", "--vocab_size=300")
    pattern = r"(\w+) +[\d.]+ s, .* time, +([\d.]+) µs / pair; +(\d+) MB, +\d+ B / pair"
    rows = re.findall(pattern, printed)
    assert [name for name, *_ in rows] == [
        "text", "read", "tokenizer", "tokenize", "plan", "deal", "batches", "train", "start",
    ]  # fmt: skip
    assert all(float(time) > 0 and float(megabytes) > 0 for _, time, megabytes in rows)
    for side in ("a.en", "a.de"):
        assert len((tmp_path / side).read_text().splitlines()) == pairs
    (real,) = re.findall(r"([\d.]+) % of positions real, \d+ pairs too long", printed)
    assert 50 < float(real) <= 100


@pytest.mark.slow
def test_training_beside_torch_at_toy_size(tmp_path):
    pytest.importorskip("torch", reason="a peer; `make parity` installs it")
    for side, sentences in zip(("en", "de"), zip(*PAIRS, strict=True), strict=True):
        (tmp_path / f"train.{side}").write_text("".join(f"{s}\n" for s in sentences))
    sizes = {"vocab_size": 701, "d_model": 8, "d_ff": 14, "num_layers": 1, "num_heads": 2}
    sizes |= {"rows": 4, "row_lengths": "29,31", "rounds": 2, "steps": 1}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    printed = output_of("train_step.py", f"--data={tmp_path}", *flags)
    assert len(re.findall(r"^round \d: ", printed, re.MULTILINE)) == 2
    rows = re.findall(r"^(\w+) +([\d,]+) +(\d+) % +([\d.]+) %$", printed, re.MULTILINE)
    assert [name for name, *_ in rows] == ["random", "bucketed", "packed"]
    for _, rate, share, padding in rows:
        assert float(rate.replace(",", "")) > 0
        assert 0 <= float(share) <= 100 and 0 < float(padding) < 100
    pattern = r"packed / (\w+): ([\d.]+) \(rounds from ([\d.]+) to ([\d.]+)\)"
    ratios = {name: list(map(float, rest)) for name, *rest in re.findall(pattern, printed)}
    assert list(ratios) == ["random", "bucketed"]
    assert all(0 < low <= median <= high for median, low, high in ratios.values())
