"""card.json: what computed a run, on which text, and how far it is; restarts and failures."""

import hashlib
import json
import subprocess
import time
from importlib.metadata import version

import pytest
from launching import config_of, evaluate, fill, json_lines, launch, refusal, refused

from transformer_jax.data import corpora
from transformer_jax.errors import Preempted, UserError
from transformer_jax.model import size
from transformer_jax.parallel import processes
from transformer_jax.training import run as training_run
from transformer_jax.workdir import card

EVALUATION = {"split": "test", "weights": "average", "steps": [2, 4], "decode": {"beam_size": 4}}
ABOUT = card.About(
    seed=5,
    parameters=13,
    step_flops=3,
    hashes={"validation_text": "0123456789abcdef"},
    tokens_seen=lambda steps: (7 * steps, 11 * steps),
    validation_bleu="greedy, x",
)


def tokens_in_rows(workdir):
    train = [row["train"] for row in json_lines(workdir / "metrics.jsonl") if "train" in row]
    return {side: sum(row[f"{side}_tokens"] for row in train) for side in ("source", "target")}


def train(workdir, first, last, *, error=None):
    """The card of a training of the steps after `first`, to `last`, which ends with `error`."""
    try:
        with card.Card(workdir, since=0) as c:
            c.begin(first, ABOUT)
            c.reached(last)
            if error:
                raise error
    except BaseException as e:
        assert e is error
    return card.read(workdir)


# ----------------------------------------------------------------------------- of a real training
@pytest.mark.fast
def test_the_card_of_a_training(trained):
    workdir, _ = trained
    found, config = card.read(workdir), config_of(workdir)
    assert found["seed"] == config.seed
    assert (found["state"], found["steps"], found["starts"]) == ("finished", 4, 1)
    described = launch("--mode=describe", f"--workdir={workdir}").stdout.split()[-1]
    assert f"{found['parameters']:,}" == described
    assert found["tokens"] == tokens_in_rows(workdir)
    assert found["flops"] == 4 * size.step_flops(config)[0]
    assert found["wall_seconds"] > 0
    assert found["versions"]["jax"] == version("jax")
    assert found["versions"]["sacrebleu"] == version("sacrebleu")
    text = (workdir / "training_data.sha256").read_text().strip()
    assert found["data"]["training_text"] == text
    texts = [corpora.load_split(config.data, split) for split in ("valid", "test")]
    lines = "".join(f"{source}\t{target}\n" for source, target in texts[0].pairs)
    assert found["data"]["validation_text"] == hashlib.sha256(lines.encode()).hexdigest()[:16]
    (digest,) = found["data"]["tokenizer"].values()
    summed = subprocess.run(["sha256sum", workdir / "tokenizer.model"], capture_output=True)
    assert summed.stdout.decode().startswith(digest)
    assert found["devices"] == {"platform": "cpu", "kind": "cpu", "number": 1, "processes": 1}
    (measured,) = found["results"]["evaluations"]
    del measured["measured"]
    assert measured == json.loads((workdir / "evaluation/test/scores.json").read_text())
    signature = found["results"]["validation_bleu"]
    assert signature == f"greedy, {measured['bleu_signature']}".replace("bs:1000|seed:12345|", "")
    assert measured["text_hash"] == texts[1].text_hash() != texts[0].text_hash()
    assert measured["bleu_interval"] > 0 and "tok:13a" in measured["bleu_signature"]


def test_a_resumed_run_counts_everything(workdir):
    before, config = card.read(workdir), config_of(workdir)
    config.train.steps = 7
    training_run.train(config, workdir)
    found = card.read(workdir)
    assert (found["steps"], found["starts"], found["state"]) == (7, 2, "finished")
    assert found["tokens"] == tokens_in_rows(workdir)
    assert found["tokens"]["source"] > before["tokens"]["source"]
    assert found["wall_seconds"] > before["wall_seconds"]
    assert found["started"] == before["started"]
    assert found["results"]["evaluations"] == before["results"]["evaluations"]


def test_evaluating_again_takes_the_place_of_the_same(workdir):
    config = config_of(workdir)
    for split, weights in (("test", "average"), ("valid", "latest"), ("valid", "latest")):
        evaluate(config, workdir, split=split, weights=weights)
    listed = card.read(workdir)["results"]["evaluations"]
    assert [(e["split"], e["weights"], e["steps"]) for e in listed] == [
        ("test", "average", [2, 4]),
        ("valid", "latest", [4]),
    ]
    assert [e["sentences"] for e in listed] == [30, 30]


def test_a_damaged_card_stops_what_would_write_it(workdir):
    (workdir / "card.json").write_text("{")
    error = refusal("--mode=evaluate", f"--workdir={workdir}")
    assert "card.json is damaged: remove it" in error
    message = refused(training_run.train, config_of(workdir), workdir)
    assert "card.json is damaged: remove it" in message


# ---------------------------------------------------------------------------------- how it ends
@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "finished"),
        (Preempted("saved"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (UserError("it diverges"), "failed"),
        (RuntimeError("a bug"), "failed"),
    ],
)
def test_the_state_is_how_the_run_ended(tmp_path, error, state):
    found = train(tmp_path, 0, 17, error=error)
    assert (found["state"], found["steps"]) == (state, 17)
    assert found["tokens"] == {"source": 7 * 17, "target": 11 * 17}
    assert found["flops"] == 3 * 17


def test_during_the_run_its_card_shows_how_far_it_is(tmp_path):
    with card.Card(tmp_path, since=time.monotonic() - 1000) as c:
        assert card.read(tmp_path) is None, "nothing before it is begun"
        c.begin(0, ABOUT)
        assert card.read(tmp_path)["state"] == "running"
        card.add_evaluation(tmp_path, EVALUATION)
        c.reached(5)
        c.update()
        assert card.read(tmp_path)["steps"] == 5
    found = card.read(tmp_path)
    assert 1000 <= found["wall_seconds"] < 1010, "from the start of the launch"
    assert [e["steps"] for e in found["results"]["evaluations"]] == [[2, 4]]


def test_an_evaluation_of_an_ensemble_does_not_replace_that_of_the_model(tmp_path):
    train(tmp_path, 0, 17)
    ensemble = EVALUATION | {"ensemble": ["b"]}
    for measured in (EVALUATION, ensemble, ensemble):
        card.add_evaluation(tmp_path, measured)
    found = card.read(tmp_path)["results"]["evaluations"]
    assert [e.get("ensemble") for e in found] == [None, ["b"]]


@pytest.mark.parametrize(("step", "kept", "starts"), [(4, 1, 2), (3, 0, 2), (0, 0, 1)])
def test_evaluations_of_steps_that_are_trained_again_are_dropped(tmp_path, step, kept, starts):
    train(tmp_path, 0, 4)
    card.add_evaluation(tmp_path, EVALUATION)
    found = train(tmp_path, step, 5)
    assert len(found["results"]["evaluations"]) == kept
    assert found["starts"] == starts, "a run from the start counts from nothing"


# --------------------------------------------------------------------------------------- the rest
def test_a_full_disk_is_a_warning(small_disk, capsys):
    with card.Card(small_disk, since=0) as c:
        c.begin(0, ABOUT)
        fill(small_disk)
        c.reached(3)
        c.update()
        card.add_evaluation(small_disk, EVALUATION)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all("warning: cannot write" in line and "card.json" in line for line in lines)
    assert card.read(small_disk)["steps"] == 0, "the old one is whole"


def test_nothing_is_written_by_other_processes_or_without_a_training(tmp_path, monkeypatch):
    card.add_evaluation(tmp_path, EVALUATION)
    monkeypatch.setattr(processes, "is_writer", lambda: False)
    assert train(tmp_path, 0, 3) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe"],
)
def test_a_damaged_card_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "card.json").write_bytes(content)
    assert "card.json is damaged: remove it" in refused(card.read, tmp_path)


# ---------------------------------------------------------------------------------------- the code
@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one committed file, which the card takes for its own."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    file = folder / "card.py"
    file.write_text("one\n")
    monkeypatch.setattr(card, "__file__", str(file))
    git(folder, "init", "-q")
    git(folder, "add", "card.py")
    git(folder, "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first")
    return folder


def git(folder, *arguments):
    return subprocess.run(
        ["git", "-C", folder, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(checkout, tmp_path, monkeypatch):
    commit = git(checkout, "rev-parse", "HEAD")
    clean = {"commit": commit, "describe": commit[:7]}
    assert card.code() == clean
    (checkout / "notes.txt").write_text("1\n")  # not tracked
    assert card.code() == clean
    (checkout / "card.py").write_text("two\n")
    assert card.code() == {"commit": commit, "describe": f"{commit[:7]}-dirty"}
    (checkout / "card.py").write_text("one\n")
    git(checkout, "-c", "user.name=n", "-c", "user.email=e", "tag", "-a", "v1", "-m", "x")
    assert card.code() == {"commit": commit, "describe": "v1"}
    nothing = {"commit": None, "describe": None}
    with monkeypatch.context() as patched:
        patched.setenv("PATH", str(tmp_path))  # without git
        assert card.code() == nothing
    assert card.code() != nothing
    installed = checkout / "lib"
    installed.mkdir()
    for folder in (installed, tmp_path):  # in another repository, and in none
        (folder / "card.py").write_text("one\n")
        monkeypatch.setattr(card, "__file__", str(folder / "card.py"))
        assert card.code() == nothing
