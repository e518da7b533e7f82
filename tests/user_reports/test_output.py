"""What is done is not lost, and is UTF-8: reports of users of other toolkits, as small tests."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from launching import ROOT, in_process, refused

from transformer_jax.errors import Preempted
from transformer_jax.inference import translator
from transformer_jax.modes import output
from transformer_jax.parallel import processes

LINES = [f"{a}有{b}只{c}。" for a in "我你他她" for b in "一三五七" for c in "猫狗鸟鱼羊马牛"]


@pytest.fixture
def lines(tmp_path):
    """A file of 112 lines, which a model translates in windows of 13 and batches of 5."""
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(translator, "WINDOW", 13)


def translate(workdir, lines, out, **given):
    options = {"config.decode.batch_size": 5} | given
    in_process("translate", workdir, input=lines, output=out, **options)
    return out.read_bytes()


def interrupted(workdir, lines, out, *, after, by=KeyboardInterrupt, **given):
    """Translates until so many batches are done; returns what of it was asked of the model."""
    add, asked = output.InOrder.add, []

    def stop(self, texts):
        add(self, texts)
        asked.extend(texts)
        if len(asked) >= after:
            raise by

    with pytest.MonkeyPatch.context() as patch, pytest.raises(BaseException) as caught:
        patch.setattr(output.InOrder, "add", stop)
        translate(workdir, lines, out, **given)
    assert not out.exists()
    return caught.value


def resumed(workdir, lines, out, **given):
    """Translates; returns the content and the number of lines that were translated for it."""
    add, asked = output.InOrder.add, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output.InOrder, "add", lambda s, texts: (asked.extend(texts), add(s, texts)))
        return translate(workdir, lines, out, **given), len(asked)


# ------------------------------------------------------------------------------- lost translations
@pytest.mark.parametrize(("name", "n_best"), [("out", 1), ("out.gz", 2)])
def test_an_interrupted_translation_keeps_what_is_done_and_resumes(
    workdir, lines, tmp_path, name, n_best
):
    given = {"n_best": n_best} | ({"config.decode.method": "beam"} if n_best > 1 else {})
    whole = translate(workdir, lines, tmp_path / f"whole-{name}", **given)
    out, part = tmp_path / name, tmp_path / f"{name}.part"
    for after in 3, 31, 70:
        stopped = interrupted(workdir, lines, out, after=after, **given)
        assert isinstance(stopped, Preempted) and f"of 112 lines are in {part}" in str(stopped)
    content, asked = resumed(workdir, lines, out, **given)
    unpack = gzip.decompress if name == "out.gz" else bytes
    assert unpack(content) == unpack(whole)
    assert asked <= 112 - 3 - 31 - 70
    assert sorted(p.name for p in tmp_path.glob("out*")) == [name]


def test_a_crash_keeps_what_is_done_too(workdir, lines, tmp_path):
    whole = translate(workdir, lines, tmp_path / "whole")
    crash = interrupted(workdir, lines, tmp_path / "out", after=50, by=RuntimeError)
    assert isinstance(crash, RuntimeError)
    assert whole.startswith((tmp_path / "out.part").read_bytes())
    content, asked = resumed(workdir, lines, tmp_path / "out")
    assert content == whole and asked <= 112 - 50


def test_what_was_written_after_the_last_save_is_translated_again(workdir, lines, tmp_path):
    """A process that is killed cannot save."""
    whole = translate(workdir, lines, tmp_path / "whole")
    interrupted(workdir, lines, tmp_path / "out", after=50)
    with (tmp_path / "out.part").open("a") as file:
        file.write("half a li")
    assert translate(workdir, lines, tmp_path / "out") == whole


@pytest.mark.parametrize("change", ["input", "option", "state", "part"])
def test_another_job_begins_again(workdir, lines, tmp_path, capsys, change):
    given = {"config.decode.extra_length": 5} if change == "option" else {}
    interrupted(workdir, lines, tmp_path / "out", after=50)
    if change == "input":
        lines.write_text("\n".join(["她", *LINES[1:]]), encoding="utf-8")
    if change == "state":
        (tmp_path / "out.part.json").write_text('{"lines": 3')
    if change == "part":
        (tmp_path / "out.part").write_text("")
    whole = translate(workdir, lines, tmp_path / "whole", **given)
    capsys.readouterr()
    content, asked = resumed(workdir, lines, tmp_path / "out", **given)
    assert (content, asked) == (whole, 112)
    assert "out.part is of another input, model or option: starting over" in capsys.readouterr().err


def test_sampling_in_other_batches_draws_the_same_after_an_interruption(workdir, lines, tmp_path):
    given = {"config.decode.method": "sample"}
    whole = translate(workdir, lines, tmp_path / "whole", **given)
    interrupted(workdir, lines, tmp_path / "out", after=29, **given)
    given["config.decode.batch_size"] = 7  # less memory, say; it is another batch for each line
    content, asked = resumed(workdir, lines, tmp_path / "out", **given)
    assert content == whole and asked < 112


def test_sigterm_keeps_what_is_done_and_the_message_names_it(workdir, tmp_path):
    lines, out, part = (tmp_path / name for name in ("in", "out", "out.part"))
    lines.write_text("".join(f"{line}\n" for line in LINES * 97), encoding="utf-8")
    command = [sys.executable, str(ROOT / "launch.py"), "--mode=translate"]
    command += [f"--workdir={workdir}", f"--input={lines}", f"--output={out}"]
    command += ["--config.decode.batch_size=32"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    while process.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert f"of 10,864 lines are in {part}; run the same command to resume" in errors
    assert part.stat().st_size and not out.exists()
    again = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    assert "resuming after" in again.stderr
    translations = out.read_text(encoding="utf-8").splitlines()
    assert translations == translations[: len(LINES)] * 97
    assert not part.exists()


UNWRITABLE = {"folder": "Is a directory", "nowhere/out": "there is no such folder"}


@pytest.mark.parametrize("name", UNWRITABLE)
@pytest.mark.parametrize("mode", ["translate", "score"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    workdir, lines, tmp_path, monkeypatch, mode, name
):
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("transformer_jax.modes.launch.Launch.load_model", pytest.fail)
    given = {"input": lines, "output": tmp_path / name}
    given |= {"translations": lines} if mode == "score" else {}
    message = refused(in_process, mode, workdir, **given)
    assert message == f"cannot write {tmp_path / name}: {UNWRITABLE[name]}"


def test_of_several_processes_one_writes_and_begins_again(workdir, lines, tmp_path, monkeypatch):
    whole = translate(workdir, lines, tmp_path / "whole")
    interrupted(workdir, lines, tmp_path / "out", after=50)
    monkeypatch.setattr(processes, "joined", lambda: True)
    assert resumed(workdir, lines, tmp_path / "out") == (whole, 112)
    assert isinstance(interrupted(workdir, lines, tmp_path / "two", after=50), KeyboardInterrupt)
    monkeypatch.setattr(processes, "is_writer", lambda: False)
    in_process("translate", workdir, input=lines, output=tmp_path / "two")
    assert not list(tmp_path.glob("two*"))


def test_a_failure_before_the_first_translation_leaves_nothing(workdir, lines, tmp_path):
    (workdir / "tokenizer.model").unlink()
    refused(in_process, "translate", workdir, input=lines, output=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_pipe_is_written_as_it_is(workdir, lines, tmp_path):
    whole = translate(workdir, lines, tmp_path / "whole")
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
        in_process("translate", workdir, input=lines, output=tmp_path / "pipe")
        assert reader.stdout.read() == whole
    assert (tmp_path / "pipe").is_fifo() and not list(tmp_path.glob("pipe.*"))


def test_a_link_to_a_file_stays_one(workdir, lines, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    whole = translate(workdir, lines, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == whole


def test_standard_output_is_written_in_order_as_batches_finish(workdir, lines, tmp_path, capsys):
    whole = translate(workdir, lines, tmp_path / "whole").decode()
    seen, add = [], output.InOrder.add

    def watched(self, texts):
        add(self, texts)
        seen.append(capsys.readouterr().out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output.InOrder, "add", watched)
        in_process("translate", workdir, input=lines)
    assert "".join(seen) == whole
    assert sum(map(bool, seen)) > 112 // 13


def test_a_reader_that_has_enough_is_no_error(workdir, tmp_path):
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in LINES * 31), encoding="utf-8")
    command = [sys.executable, str(ROOT / "launch.py"), "--mode=translate"]
    command += [f"--workdir={workdir}", f"--input={tmp_path / 'in'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_scores_are_printed_before_they_are_written(workdir, capsys):
    shutil.rmtree(workdir / "evaluation")
    (workdir / "evaluation").write_text("a file, where a folder has to be")
    message = refused(in_process, "evaluate", workdir)
    assert "evaluation" in message
    assert "BLEU" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------- UTF-8
LATIN = {"PYTHONIOENCODING": "latin-1"}
C = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"}
EVALUATE, SCORE = ["--mode=evaluate"], ["--mode=score", "--split=valid"]
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        pytest.param(LATIN, EVALUATE, id="latin-1, evaluate", marks=slow),
        pytest.param(LATIN, SCORE, id="latin-1, score"),
        pytest.param(C, EVALUATE, id="C, evaluate"),
        pytest.param(C, SCORE, id="C, score", marks=slow),
    ],
)
def test_standard_streams_are_utf8_whatever_the_locale(workdir, environment, mode):
    command = [sys.executable, str(ROOT / "launch.py"), f"--workdir={workdir}"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONIOENCODING"} | environment
    done = subprocess.run([*command, *mode], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "。" in done.stdout.decode("utf-8")
