"""What a validation gives: the samples are among what was scored, and always the same sentences."""

import pytest
from launching import config_of

from transformer_jax.data import corpora
from transformer_jax.evaluation.scores import corpus_bleu
from transformer_jax.training import validation
from transformer_jax.training.run import train
from transformer_jax.workdir.metrics import read_metrics


def test_samples_are_spread_over_what_was_scored(workdir, monkeypatch):
    scored, bleu = [], corpus_bleu

    def recorded(translations, references, **options):
        scored.append(list(zip(references, translations, strict=True)))
        return bleu(translations, references, **options)

    monkeypatch.setattr(validation, "corpus_bleu", recorded)
    config = config_of(workdir)
    config.train.steps, config.train.evaluate_every = 8, 2
    config.train.evaluate_sentences = 11
    train(config, workdir)
    rows = read_metrics(workdir / "samples.jsonl")
    pairs = corpora.load_split(config.data, "valid").pairs
    for step, translated in zip((6, 8), scored, strict=True):
        samples = [row for row in rows if row["step"] == step]
        places = [0, 2, 5, 8, 10]
        assert [(row["source"], row["reference"]) for row in samples] == [pairs[n] for n in places]
        assert [row["translation"] for row in samples] == [translated[n][1] for n in places]


@pytest.mark.fast
def test_fewer_sentences_than_samples_are_all_shown(trained):
    workdir, _ = trained
    rows = read_metrics(workdir / "samples.jsonl")
    assert validation.SAMPLES > 3
    assert [row["step"] for row in rows] == [4, 4, 4]
