"""What the page's server answers, and what it refuses."""

import json
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from launching import launch
from serving import ask, serving

import transformer_jax as tj
from transformer_jax.inside import server
from transformer_jax.inside.answers import MAX_CHARACTERS, MAX_PIECES, Answers, Question
from transformer_jax.inside.serialize import to_json
from transformer_jax.modes.launch import command
from transformer_jax.workdir import manifest

SENTENCE = "我有一只猫"


def as_json(record):
    """What the page gets of a record at first."""
    found = json.loads(json.dumps(to_json(record)))
    del found["prediction"]["logits"]
    depth = {stack: len(found.pop(stack)) for stack in ("encoder", "decoder")}
    return {"depth": depth, **found}


def inside(port, **question):
    """(id, the rest) of an answer."""
    status, _, body = ask(port, question=question)
    assert status == 200
    found = json.loads(body)
    return found.pop("id"), found


def layer(port, record, name):
    status, _, body = ask(port, f"/api/layer?record={record}&name={name}")
    return status, json.loads(body)


@pytest.fixture(scope="module")
def model(trained):
    return tj.load(trained[0])


@pytest.fixture(scope="module")
def port(model):
    with serving(Answers(model)) as found:
        yield found


def test_a_sentence_is_answered_with_the_record_of_the_model(model, port):
    assert inside(port, source=SENTENCE)[1] == as_json(model.inside(SENTENCE))


def test_a_layer_is_answered_alone_while_its_record_is_kept(model, port, monkeypatch):
    first, _ = inside(port, source=SENTENCE, off=["target/position"])
    latest = [inside(port, source=source)[0] for source in ("我有一只狗", "狗", "猫", SENTENCE)]
    record = model.inside("我有一只狗")
    monkeypatch.delattr(tj.Model, "inside")  # nothing is computed again
    for name, expected in (("encoder_0", record.encoder[0]), ("decoder_0", record.decoder[0])):
        status, found = layer(port, latest[0], name)
        expected = json.loads(json.dumps(to_json(expected)))
        for part in expected.values():
            part.pop("parameters", None)
        for part in found.values():
            assert part.pop("parameters", {}) == {}
        assert (status, found) == (200, expected)
    status, found = layer(port, first, "encoder_0")
    assert (status, found["error"]["code"]) == (410, "gone")
    for name in ("encoder_1", "encoder", ""):
        assert layer(port, latest[0], name)[0] == 400


def test_a_translation_can_be_given_and_a_part_switched_off(model, port):
    changes = {"target": "I have a dog", "off": ["encoder_0/self_attention/head_1", "target/mask"]}
    _, found = inside(port, source=SENTENCE, **changes)
    assert found == as_json(model.inside(SENTENCE, **changes))
    assert "dog" in "".join(found["labels"])


def test_a_checkpoint_has_its_own_numbers(trained, model, port):
    steps = json.loads(ask(port, "/api/model")[2])["checkpoints"]
    assert steps == [2, 4]
    latest = as_json(tj.load(trained[0], weights="latest").inside(SENTENCE))
    for step in (2, 4):
        _, found = inside(port, source=SENTENCE, checkpoint=step)
        assert found["steps"] == [step]
        assert (found["encoded"] == latest["encoded"]) == (step == 4)


@pytest.mark.parametrize(
    "question, code",
    [
        ({"source": ""}, "empty"),
        ({"source": " \u200b\u3000"}, "empty"),
        ({"source": SENTENCE, "target": "\u200b"}, "empty"),
        ({"source": "猫" * (MAX_PIECES + 1)}, "too_long"),
        ({"source": "a" * (MAX_CHARACTERS + 1)}, "too_many_characters"),
        ({"source": SENTENCE, "checkpoint": 3}, "no_checkpoint"),
        ({"source": SENTENCE, "checkpoint": True}, "malformed"),
        ({"source": 7}, "malformed"),
        ({"target": SENTENCE}, "malformed"),
        ({"source": SENTENCE, "path": "/etc"}, "malformed"),
        ({"source": SENTENCE, "off": [7]}, "malformed"),
        ({"source": SENTENCE, "off": "target/mask"}, "malformed"),
        ([], "malformed"),
        (b"\xff", "malformed"),
        (b"[" * 9000, "malformed"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_a_code(port, question, code):
    status, _, body = ask(port, question=question)
    assert (status, json.loads(body)["error"]["code"]) == (400, code)


def test_the_matrices_of_one_attention_are_those_of_the_checkpoint(trained, model, port):
    assert Answers(model).attentions() == [
        "decoder_0/cross_attention",
        "decoder_0/self_attention",
        "encoder_0/self_attention",
    ]
    latest = tj.load(trained[0], weights="latest")
    for checkpoint, of in (("", model), ("4", latest)):
        query = f"part=decoder_0/cross_attention&checkpoint={checkpoint}"
        found = json.loads(ask(port, f"/api/parameters?{query}")[2])
        kernels = of.params["decoder_0"]["cross_attention"]
        assert found == {name: to_json(np.asarray(kernels[name])) for name in kernels}
    for query in ("part=embedding", "part=decoder_0", "part=encoder_0/self_attention&checkpoint=x"):
        status, _, body = ask(port, f"/api/parameters?{query}")
        assert (status, json.loads(body)["error"]["code"]) == (400, "malformed")


def test_a_part_that_is_not_there_is_refused_by_name(port):
    status, _, body = ask(port, question={"source": SENTENCE, "off": ["encoder_7/head_1"]})
    assert (status, "encoder_7/head_1" in json.loads(body)["error"]["message"]) == (400, True)


def test_strangers_are_refused(port):
    question = {"source": SENTENCE}
    assert ask(port, host="example.com", question=question)[0] == 400
    assert ask(port, "/", host=f"evil.127.0.0.1.example.com:{port}")[0] == 400
    # A form of a page elsewhere can send these without asking the browser's permission.
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert ask(port, question=question, kind=kind)[0] == 415
    assert ask(port, question={"source": "a" * server.MAX_BODY})[0] == 413
    for path in ("/page/server.py", "/page/..%2Fserver.py", "/etc/passwd"):
        assert ask(port, path)[0] == 404
    _, headers, _ = ask(port, "/")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers


def test_only_this_machine_is_listened_to_and_a_taken_port_is_replaced():
    with server.bind(0) as first:
        address, port = first.getsockname()
        assert address == "127.0.0.1"
        first.listen()
        with server.bind(port) as second:
            assert second.getsockname()[1] > port


def test_a_run_that_still_trains_shows_its_newest_complete_checkpoint(workdir):
    answers = Answers(tj.load(workdir, weights="latest"))
    unfinished = workdir / manifest.FOLDER / "6"
    unfinished.mkdir()
    assert answers.checkpoints() == [2, 4]
    assert answers.inside(Question(SENTENCE))["steps"] == [4]


def test_the_mode_logs_the_address_and_ends_when_interrupted(trained):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["--mode=inside", f"--workdir={trained[0]}", f"--port={port}"]
        running = subprocess.Popen([*command(), *arguments], stderr=subprocess.PIPE, text=True)
        lines = [running.stderr.readline() for _ in range(2)]
        assert "checkpoint of step 2, 4" in lines[0]
        assert f"port {port} is taken" in lines[1]
        address = lines[1].split()[1]
        assert b"Transformer" in urllib.request.urlopen(address).read()
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    assert "Traceback" not in running.stderr.read()
    running.stderr.close()


def test_a_file_needs_a_sentence_and_a_sentence_needs_a_file(trained, tmp_path):
    flags = ["--mode=inside", f"--workdir={trained[0]}"]
    done = launch(*flags, f"--sentence={SENTENCE}")
    assert (done.returncode, "give --output" in done.stderr) == (2, True)
    (tmp_path / "blank").write_text("\n \n")
    done = launch(*flags, f"--output={tmp_path / 'page.html'}", f"--input={tmp_path / 'blank'}")
    assert (done.returncode, "no sentence" in done.stderr) == (2, True)
    assert not Path(tmp_path / "page.html").exists()
