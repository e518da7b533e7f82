"""Folders as runs and sweeps leave them, written by hand: what reports are tested with."""

import json
import math

from transformer_jax.config import experiment_files
from transformer_jax.config.files import save_config
from transformer_jax.config.options import Config

SAMPLE = {"source": "我有一只猫", "reference": "I have a cat", "translation": "I have a dog"}


def write_run(workdir, overrides=None, *, loss=1.5, bleu=20.0, samples=(SAMPLE,), **facts):
    """A workdir of a finished run whose last validation gave `loss` and `bleu`."""
    workdir.mkdir(parents=True)
    config = Config(name=workdir.name)
    experiment_files.apply_overrides(config, overrides or {}, origin="a test")
    save_config(config, workdir / "config.json")
    rows = []
    for step in range(10, 410, 10):
        value = 7 * math.exp(-step / 90) + loss + 0.1 * math.sin(step)
        rate = 1e-3 * min(step / 100, 1)
        train = {"loss": value, "learning_rate": rate, "gradient_norm": 1 + 20 / step}
        rows.append({"step": step, "time": 1e9 + step, "train": train})
        if step % 80 == 0:
            shares = 1 - step / 400
            valid = {"loss": loss + 5 * shares**2, "bleu": bleu * (1 - shares)}
            rows.append({"step": step, "time": 1e9 + step, "valid": valid})
    write_lines(workdir / "metrics.jsonl", rows)
    write_lines(workdir / "samples.jsonl", [{"step": s, **x} for s in (80, 400) for x in samples])
    card = {
        "state": "finished",
        "started": "2026-01-02T03:04:05+00:00",
        "starts": 1,
        "code": {"commit": "0123456789abcdef0123456789abcdef01234567", "describe": "0123456"},
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
        "data": {"training_text": "89abcdef01234567", "tokenizer": {"tokenizer.model": "fedcba98"}},
        "devices": {"platform": "cpu", "kind": "cpu", "number": 1, "processes": 1},
        "seed": config.seed,
        "parameters": 6948,
        "steps": 400,
        "tokens": {"source": 40_400, "target": 97_400},
        "flops": 5_554_176_000,
        "wall_seconds": 4210.5,
        "results": {"validation_bleu": "greedy, nrefs:1|case:mixed", "evaluations": []},
    }
    (workdir / "card.json").write_text(json.dumps(card | facts, ensure_ascii=False))
    return workdir


def write_lines(path, rows):
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def write_sweep(folder, points, *, config="experiments/points.py"):
    """A sweep's folder, of points (name, overrides, loss, bleu); one whose loss is None failed."""
    listed = []
    for name, overrides, loss, bleu in points:
        state, reason = ("failed", "error: it <diverges>") if loss is None else ("finished", "")
        if loss is not None:
            write_run(folder / name, overrides, loss=loss, bleu=bleu)
        listed.append(
            {
                "name": name,
                "overrides": overrides,
                "state": state,
                "value": loss,
                "workdir": name,
                "seconds": 12.5,
                "reason": reason,
            }
        )
    folder.mkdir(exist_ok=True)
    summary = {"config": config, "storage": "sqlite:///study.db", "points": listed}
    (folder / "sweep.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder
