"""Input from outside: any text, any file, any flag. Each works or gives a one-line error.

`pytest tests/modes/test_hostile.py --hypothesis-profile=long` tries ten thousand of each.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from hypothesis import example, given
from hypothesis import strategies as st
from launching import FLAGS, ROOT, config_of, evaluate, launch, refusal, refused
from ml_collections import config_flags
from toy import MODEL, VOCAB_SIZE, random_params, tokenizers

import transformer_jax as tj
from transformer_jax.config.checks import check_config
from transformer_jax.config.experiment_files import check_overrides
from transformer_jax.config.files import load_config
from transformer_jax.config.options import OPTIONS, Config, DataConfig, DecodeConfig, flatten
from transformer_jax.data import corpora
from transformer_jax.data.tokenizer import Tokenizer
from transformer_jax.errors import UserError
from transformer_jax.errors import one_line as one_line_of
from transformer_jax.inference import batching
from transformer_jax.inference.translator import Translator
from transformer_jax.model.transformer import Transformer
from transformer_jax.storage import write_whole
from transformer_jax.training.replay import replay_step
from transformer_jax.training.run import train
from transformer_jax.workdir import manifest
from transformer_jax.workdir.metrics import Appender, bleu_scores, remove_rows_after, skipped_steps

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # unpaired surrogates and NUL, too
NEIGHBOURS = ["我有一只猫。", "他是老师。"]
NASTY = ["", " ", "\u3000\t", "\0", "猫\0狗", "a" * 100_000, "\ud800", "\udc00\ud83d"]
NASTY += ["\ud83d\ude00", "\u202eabc", "שלום עולם", "👩‍👩‍👧‍👦", "\x1b[2J", "a\u2028b\x85c\x0bd"]
NASTY += ["</s><pad><unk>", "<0x0A>", "é" * 3000, "\n".join("ab"), "\ufeff", "ﷺ" * 9]


@pytest.fixture(scope="module")
def translate():
    """Translates sentences with a toy model, greedily; compiles few shapes."""
    model = Transformer(MODEL, VOCAB_SIZE)
    params = random_params(model)
    decode = DecodeConfig(method="greedy", extra_length=3, batch_size=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "SOURCE_LENGTHS", (16, 64))
        translator = Translator([model], tokenizers(), decode)
        yield lambda sentences: translator.translate([params], sentences)


@pytest.fixture(scope="module")
def alone(translate):
    return [found[0].text for found in translate([*NEIGHBOURS, "猫"])[:2]]


def with_examples(texts):
    def decorate(test):
        for text in texts:
            test = example(text)(test)
        return test

    return decorate


@with_examples(NASTY)
@given(ANY_TEXT)
def test_any_text_is_translated_or_none_and_its_neighbours_do_not_change(translate, alone, text):
    first, middle, last = translate([NEIGHBOURS[0], text, NEIGHBOURS[1]])
    assert [first[0].text, last[0].text] == alone
    assert len(middle) <= 1  # without one, the launcher names the line that is too long
    for hypothesis in middle:
        assert "\n" not in hypothesis.text and "\r" not in hypothesis.text
        hypothesis.text.encode()  # no surrogates come out
        assert text.strip() or not hypothesis.text


def test_line_k_of_the_output_is_line_k_of_the_input(trained):
    texts = [t.encode("utf-8", "replace").decode() for t in NASTY if "\n" not in t]
    lines = [line for text in texts for line in (NEIGHBOURS[0], text)]
    translate = ["--mode=translate", f"--workdir={trained[0]}"]
    done = launch(*translate, text="".join(f"{line}\n" for line in lines))
    assert done.returncode == 0, done.stderr
    out = done.stdout.split("\n")
    assert len(out) == len(lines) + 1
    assert len({out[2 * number] for number in range(len(texts))}) == 1, "its neighbours change"
    too_long = [n for n, line in enumerate(lines, 1) if len(line) > 2000]
    assert len(too_long) == 2
    for number in too_long:
        assert f"line {number}: too long to translate, left empty" in done.stderr
        assert out[number - 1] == ""


def test_a_line_that_is_not_text_is_named(trained):
    command = [sys.executable, "launch.py", "--mode=translate", f"--workdir={trained[0]}"]
    done = subprocess.run(command, cwd=ROOT, input=b"a\nb\n\xff\n", capture_output=True)
    assert done.returncode == 2
    assert done.stderr == b"error: standard input, line 3 is not UTF-8: convert it (iconv)\n"


# ------------------------------------------------------------------------------- files, flags
def one_line(function, *arguments):
    """What `function` returns, or None if it raises a UserError: the launcher prints one line."""
    try:
        return function(*arguments)
    except UserError as e:
        assert one_line_of(e)
        return None


FILES = {"tsv": "a.tsv", "two": "a.en,a.de", "gz": "a.gz", "tsv.gz": "b.gz"}


@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from(list(FILES)))
def test_any_bytes_as_a_corpus(tmp_path_factory, first, second, kind):
    folder, names = tmp_path_factory.getbasetemp() / "corpus", FILES[kind]
    folder.mkdir(exist_ok=True)
    for name, content in zip(names.split(","), (first, second), strict=False):
        (folder / name).write_bytes(gzip.compress(content) if kind == "tsv.gz" else content)
    data = DataConfig(corpus="files", path=str(folder), train=names, held_out_size=1)
    corpus = one_line(corpora.load_split, data, "train")
    for pair in corpus.pairs if corpus else ():
        assert len(pair) == 2 and all(side.strip() for side in pair)


@given(st.sampled_from(sorted(OPTIONS)), ANY_TEXT | st.integers().map(str))
def test_any_value_of_any_flag(option, value):
    config, argv = Config(), ["launch.py", f"--config.{option}={value}"]

    def parse():
        check_overrides(argv[1:])
        values = flags.FlagValues()
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=argv)
        try:
            values(argv)
        except flags.Error as e:
            raise UserError(one_line_of(e)) from None
        return check_config(config)

    parsed = one_line(parse)
    assert parsed is None or type(flatten(parsed)[option]) is type(flatten(Config())[option])


@given(ANY_TEXT)
def test_any_name_of_a_flag(name):
    if name.partition("=")[0] not in OPTIONS:
        with pytest.raises(UserError, match="there is no option"):
            check_overrides([f"--config.{name}"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["model", "d_ff", "x"]), inner),
)


@given(JSON.map(json.dumps) | st.text())
def test_any_config_json_in_a_workdir(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(text, encoding="utf-8")
    config = one_line(load_config, path)
    assert config is None or isinstance(config, Config)


GROUP = JSON | st.dictionaries(st.sampled_from(["bleu", "loss", "skipped"]), JSON)
ROW = st.fixed_dictionaries(
    {}, optional={"step": st.integers() | JSON, "train": GROUP, "valid": GROUP, "time": JSON}
)
ROWS = st.lists((ROW | JSON).map(json.dumps) | st.text()).map("\n".join).map(str.encode)


@given(ROWS | ROWS.map(lambda rows: rows + b"\n") | st.binary())
@example(b"[" * 100_000 + b"\n")
@example(b'{"step": 1, "valid": {"bleu": "high"}}\n')
@example(b'{"step": true}\n')
@example(b"\xff\n")
def test_any_metrics_in_a_workdir(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    (folder / "metrics.jsonl").write_bytes(content)
    scores = one_line(bleu_scores, folder)
    assert all(isinstance(value, float | int) for value in (scores or {}).values())
    assert isinstance(one_line(skipped_steps, folder), int | None)
    one_line(remove_rows_after, folder / "metrics.jsonl", 3)


@given(st.binary(max_size=100))
def test_any_bytes_as_a_tokenizer(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged: it is not a SentencePiece model"):
        Tokenizer.load(path)


# A workdir is data: nothing in it is unpickled or run. The interpreter itself reports both.
AUDITED = """
import os, sys
from pathlib import Path
import transformer_jax as tj
import transformer_jax.training.run
def forbid(event, arguments):
    # Our own: the card asks git for the commit of the code.
    if event in ("pickle.find_class", "os.system", "subprocess.Popen") and arguments[0] != "git":
        found = f"{event} {arguments}"
    elif event == "open" and str(arguments[0]).startswith(workdir):
        opened.append(str(arguments[0]))
        if not opened[-1].endswith((".py", ".pkl", ".pth", ".so")):
            return
        found = f"opened {opened[-1]}"
    else:
        return
    print(found, file=sys.stderr, flush=True)
    os._exit(3)  # an exception might be caught
workdir, opened = sys.argv[1], []
sys.addaudithook(forbid)
model = tj.load(workdir)
print(model.translate(["我有一只猫"]))
assert any("tokenizer.model" in name for name in opened), opened
model.config.train.steps += 2
tj.train(model.config, workdir)
assert any(name.endswith(".npy") for name in opened), opened
"""


class _Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (exec, (f"open({str(self._path)!r}, 'w').close()",))


def plant(workdir, proof):
    """Puts files into a workdir that would create `proof` if they were imported or unpickled."""
    code = f"open({str(proof)!r}, 'w').close()"
    pickled = pickle.dumps(_Evil(proof))
    arrays = io.BytesIO()
    np.save(arrays, np.array([_Evil(proof)], object), allow_pickle=True)
    for folder in (workdir, workdir / "checkpoints", workdir / "tokens"):
        for name in ("sitecustomize.py", "config.py", "__init__.py", "evil.pth"):
            (folder / name).write_text(code)
        (folder / "state.pkl").write_bytes(pickled)
    for tokens in (workdir / "tokens").rglob("*.npy"):
        tokens.write_bytes(arrays.getvalue())
        manifest.write(tokens.parent)  # a stranger can write this, too


def test_nothing_in_a_workdir_is_executed_when_it_is_loaded_or_resumed(workdir, tmp_path):
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(_Evil(proof)))
    assert proof.exists(), "what is planted works"
    proof.unlink()
    plant(workdir, proof)
    command = [sys.executable, "-c", AUDITED, str(workdir)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("["), done.stdout
    assert not proof.exists()


LINKS = [
    *("config.json.tmp", "metrics.jsonl", "samples.jsonl", "card.json", "training_data.sha256"),
    *("checkpoints/9", "checkpoints/4/params/x", "damaged", "tokens", "evaluation", "tensorboard"),
]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_a_workdir_is_not_followed(workdir, tmp_path, name):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").write_text("mine")
    link = workdir / name
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim if "." not in name else victim / "kept")
    config = config_of(workdir)
    config.train.steps += 2
    for run in (
        lambda: train(config, workdir),
        lambda: replay_step(config, workdir, 3),
        lambda: evaluate(config, workdir, split="valid", weights="latest"),
    ):
        assert f"{link} is neither a file nor a folder of its own" in refused(run)
    assert (victim / "kept").read_text() == "mine"
    assert [path.name for path in victim.iterdir()] == ["kept"]


def test_nothing_is_written_through_a_link(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "config.json"
    victim.write_text("mine")
    for link in (path, tmp_path / "config.json.tmp", tmp_path / "metrics.jsonl"):
        link.symlink_to(victim)
    write_whole(path, "new")
    assert (path.read_text(), path.is_symlink()) == ("new", False)
    with pytest.raises(OSError):
        Appender(tmp_path / "metrics.jsonl", print)
    assert victim.read_text() == "mine"


def test_a_pipe_does_not_block(workdir):
    for name in ("config.json", "card.json"):
        (workdir / name).unlink()
        os.mkfifo(workdir / name)
    assert "config.json is damaged: it is not a file" in refusal(f"--workdir={workdir}", *FLAGS)


@pytest.mark.parametrize("split", ["../../escaped", "/tmp/escaped", "test/../../x"])
def test_a_split_cannot_name_a_place_to_write(trained, split):
    model = tj.load(trained[0])
    assert "has no split" in refused(tj.evaluate, model, split)
