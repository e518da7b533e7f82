"""From the last step of a training to its end, nothing is done that was done before."""

from collections import Counter

import pytest
from launching import FLAGS, ROOT

from transformer_jax.data import corpora
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.inference.trained import Model
from transformer_jax.inference.translator import Hypothesis
from transformer_jax.model.transformer import Transformer
from transformer_jax.modes import command_line
from transformer_jax.training import run
from transformer_jax.training.validation import Validation
from transformer_jax.workdir import checkpoints
from transformer_jax.workdir.checkpoints import Checkpoints


@pytest.fixture
def done(monkeypatch):
    """What is done since the last step, 4: kinds of work, and ("restored", step)."""
    found, over = Counter(), []

    def count(owner, name, what):
        function = getattr(owner, name)

        def counted(*args, **options):
            found[what(*args) if callable(what) else what] += bool(over)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    count(Tokenizer, "__init__", "tokenizers")  # loaded, or learned
    count(corpora, "load_splits", lambda data, names: ("read", *names))
    count(Transformer, "init", "model")
    count(checkpoints, "restore_params", lambda workdir, step, *_: ("restored", step))
    save = Checkpoints.save

    def saved(self, step, state):
        save(self, step, state)
        over.extend([step] * (step == 4))

    monkeypatch.setattr(Checkpoints, "save", saved)
    monkeypatch.setattr(Validation, "__init__", lambda self, prepared: None)
    scores = {"loss": 3.0, "bleu": 2.0}
    monkeypatch.setattr(Validation, "__call__", lambda self, params: (dict(scores), []))
    nothing = [Hypothesis("a", 0.0, 0.0)]
    monkeypatch.setattr(Model, "hypotheses", lambda self, texts, **_: [nothing] * len(texts))
    return found


def launched(workdir, *flags):
    line = ["launch.py", f"--workdir={workdir}", *FLAGS, *flags]
    assert command_line.run(line, ROOT / "experiments" / "quickstart.py") == 0


def test_the_end_reads_the_checkpoints_of_the_average_once(tmp_path, done, monkeypatch):
    trained, before = run.train, []

    def train(*args, **options):
        result = trained(*args, **options)
        before.append(+done)
        return result

    monkeypatch.setattr(run, "train", train)
    launched(tmp_path)
    restored = {("restored", 2): 1, ("restored", 4): 1}
    assert before == [restored]
    # Evaluating the test split, which the workdir has, counts the words of the training text.
    assert +done == restored | {("read", "train"): 1}


def test_a_choice_reads_the_checkpoints_of_each_average_and_of_the_chosen_one(tmp_path, done):
    """Those of 4, of 2 and 4; and of 4, which is as good as the other."""
    launched(tmp_path, "--config.train.choose_average=true")
    restored = {("restored", 2): 1, ("restored", 4): 3}
    assert +done == restored | {("read", "train"): 1}
