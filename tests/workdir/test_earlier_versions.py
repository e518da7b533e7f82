"""A workdir that an earlier version left is read, resumed and evaluated."""

import json
import time

import pytest
from launching import config_of, evaluate

import transformer_jax as tj
from transformer_jax.parallel.host import host_id
from transformer_jax.training.run import train
from transformer_jax.workdir import card, lock

EVALUATION = {"split": "test", "weights": "average", "steps": [2, 4], "decode": {"beam_size": 4}}
CARD = {
    "name": "tiny", "state": "finished", "started": "2025-01-02T03:04:05+00:00", "starts": 1,
    "code": {"commit": 40 * "a", "uncommitted": "0123456789abcdef"}, "versions": {"jax": "0.10.2"},
    "data": {"training_text": "8a48c0dda5394dbe"}, "lanes": 1, "seed": 0, "parameters": 13,
    "config": {"name": "tiny"}, "steps": 4, "tokens": {"source": 28, "target": 44}, "flops": 12,
    "wall_seconds": 100.0,
    "results": {
        "validation": {"last": {"step": 4, "loss": 1.5, "bleu": None}}, "validation_bleu": "x",
        "evaluations": [EVALUATION],
    },
}  # fmt: skip


@pytest.fixture
def old(workdir):
    """A workdir with what earlier versions wrote besides, and without what they did not know."""
    (workdir / "card.json").write_text(json.dumps(CARD))
    options = json.loads((workdir / "config.json").read_text())
    for name in ("keep_every", "grace_seconds", "rng"):
        del options["train"][name]
    (workdir / "config.json").write_text(json.dumps(options))
    dead = {"host": host_id(), "pid": 2**31 - 1, "time": time.time()}
    (workdir / lock.NAME).write_text(json.dumps(dead))
    (workdir / "skipped").mkdir()
    (workdir / "skipped" / "step_3.tsv").write_text("0\t猫\tcat\n")
    return workdir


def test_a_workdir_of_an_earlier_version(old):
    assert card.read(old) == CARD
    assert tj.load(old).translate("我有一只猫") == tj.load(old).translate(["我有一只猫"])[0]
    config = config_of(old)
    config.train.steps = 6
    train(config, old)
    steps = [json.loads(line)["step"] for line in (old / "metrics.jsonl").open()]
    assert steps == [1, 2, 3, 4, 4, 5, 6, 6]
    evaluate(config, old, split="valid", weights="latest")
    found = card.read(old)
    assert (found["starts"], found["started"], found["steps"]) == (2, CARD["started"], 6)
    assert found["wall_seconds"] > 100
    assert [e["split"] for e in found["results"]["evaluations"]] == ["test", "valid"]
    assert (old / "skipped" / "step_3.tsv").exists() and not (old / lock.NAME).exists()
