"""Paths in flags and options: `~`, relative names that are read from elsewhere, commas."""

import dataclasses
import json
import os
import pwd
import shutil
from pathlib import Path

import fork_server
import pytest
from launching import FLAGS, ROOT, refused

from transformer_jax import storage
from transformer_jax.config.files import load_config, save_config
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import OPTIONS, Config, DataConfig
from transformer_jax.data import corpora
from transformer_jax.modes import command_line
from transformer_jax.sweeps import study

PATHS = [  # (mode, flag)
    *((mode, "workdir") for mode in command_line.MODES),
    *((mode, "output") for mode in ("translate", "inside", "score", "export", "train")),
    *((mode, "input") for mode in ("translate", "inside", "score", "import")),
    *(("score", "translations"), ("translate", "prefixes"), ("compare", "other")),
    *(("train", "profile"), ("evaluate", "sentences_of")),
    *((mode, "reverse") for mode in ("translate", "evaluate")),
]
TRAIN = [*FLAGS, "--config.data.corpus=files", "--config.train.steps=2"]
TRAIN += ["--config.train.evaluate_every=0", "--config.data.held_out_size=7"]
TRAIN += ["--config.data.vocab_size=350", "--config.demo=", "--config.data.train_size=0"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def flag(mode, name, text):
    """The value of a flag as the mode is given it."""
    values = command_line.define_flags(mode)
    values(["launch.py", f"--{name}={text}"])
    return values[name].value


def write_text(folder, names=("a.en", "a.de"), number=200):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        lines = (f"{name[-2:]} {n} {'xyz'[n % 3] * (n % 11 + 1)}\n" for n in range(number))
        (folder / name).write_text("".join(lines))


@pytest.mark.parametrize(("mode", "name"), PATHS)
def test_every_flag_that_is_a_path_knows_the_home_folder(home, mode, name):
    me = pwd.getpwuid(os.getuid())
    assert flag(mode, name, "~/x y/z") == f"{home}/x y/z"
    assert flag(mode, name, f"~{me.pw_name}/z") == f"{me.pw_dir}/z"
    assert flag(mode, name, "r/x") == str(home.parent / "r/x")
    assert flag(mode, name, "gs://b/x") == "gs://b/x"


def test_no_flag_that_names_a_file_is_left_out():
    """A flag that PATHS lacks has a help text that speaks of no file, folder or workdir."""
    for mode in command_line.MODES:
        values = command_line.define_flags(mode)
        for name in set(values) - {"ensemble", "sweep_storage", "weights", "sweep_trials"}:
            help_text = values[name].help.lower()
            if any(word in help_text.split() for word in ("file", "folder", "workdir")):
                assert (mode, name) in PATHS or name == "output", (mode, name)


def test_a_list_of_workdirs(home):
    assert flag("evaluate", "ensemble", '~/a,"b,c", gs://d') == [
        f"{home}/a",
        str(home.parent / "b,c"),
        "gs://d",
    ]


def test_the_database_of_a_sweep(home):
    assert study.resolved("sqlite:///~/a.db") == f"sqlite:////{str(home)[1:]}/a.db"
    for url in ("sqlite://", "postgresql://me:secret@host/~", "~/a.db"):
        assert study.resolved(url) == url


@pytest.mark.parametrize("name", ["~nobody_of_that_name/x", "s3://bucket/x", "https://a.b/c"])
def test_a_path_that_is_none(home, name):
    assert name in refused(storage.absolute, name)
    assert not list(home.parent.glob("*[~:]*"))


def test_the_workdir_and_the_experiment_are_looked_for_at_home(home):
    """Both are read before the flags are parsed."""
    source = "from transformer_jax import Config\ndef get_config(): return Config(name='at_home')\n"
    (home / "mine.py").write_text(source)
    save_config(Config(name="saved"), home / "config.json")
    for argument, name in (("--config=~/mine.py", "at_home"), ("--workdir=~", "saved")):
        config, _ = command_line.find_config([argument], ROOT / "experiments" / "quickstart.py")
        assert config.name == name
    message = refused(command_line.find_config, ["--config=~/other.py"], None)
    assert f"{home}/other.py" in message


def test_what_is_trained_with_relative_names_is_evaluated_from_elsewhere(home):
    """Through the launcher: no folder `~` is made, and config.json has absolute paths."""
    write_text(home / "text")

    def run(folder, *line):
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        script = str(ROOT / "launch.py")
        return fork_server.run(script, *line, environment=environment, cwd=folder, text="")

    done = run(home, *TRAIN, "--workdir=~/run", "--config.data.train=text/a.en,~/text/a.de")
    assert done.returncode == 0, done.stderr
    assert not (home / "~").exists() and (home / "run" / "config.json").exists()
    saved = json.loads((home / "run" / "config.json").read_text())["data"]["train"]
    assert saved == f"{home}/text/a.en,{home}/text/a.de"
    # Where the text has changed, the held-out pairs are those of the workdir.
    shutil.copytree(home / "text", home / "copy")
    write_text(home / "text", number=190)
    done = run("/", "--mode=evaluate", "--workdir=~/run")
    assert done.returncode == 0 and "has changed since" in done.stderr, done.stderr
    shutil.rmtree(home / "text")
    shutil.move(home / "copy", home / "text")
    # It resumes from elsewhere with the names of there, and after the text has moved.
    more = [*TRAIN, "--config.train.steps=3", "--workdir=../run"]
    done = run(home / "text", *more, "--config.data.train=a.en,a.de")
    assert done.returncode == 0 and "resuming from step 2" in done.stderr, done.stderr
    shutil.move(home / "text", home / "moved")
    done = run(home / "moved", "--mode=evaluate", "--workdir=../run", "--split=train")
    assert done.returncode == 2 and f"{home}/text/a.en does not exist" in done.stderr
    more += ["--config.train.steps=4"]
    done = run(home / "moved", *more, "--config.data.train=a.en,a.de")
    assert done.returncode == 0 and "resuming from step 3" in done.stderr, done.stderr


@pytest.mark.parametrize("folder", ["", "text", "~/text", "gs://b/text"])
def test_a_saved_configuration_names_absolute_paths(home, folder):
    """Except for names that start from data.path, which may move with their folder."""
    data = DataConfig(corpus="files", path=folder, train="a.en,~/b.de", test='"x,y.tsv"')
    save_config(Config(data=data), home / "config.json")
    saved = load_config(home / "config.json").data
    start = {"": "", "text": f"{home.parent}/text", "~/text": f"{home}/text"}.get(folder, folder)
    here = "" if folder else f"{home.parent}/"
    assert (saved.path, saved.train) == (start, f"{here}a.en,{home}/b.de")
    assert storage.split_paths(saved.test) == [f"{here}x,y.tsv"]
    # Of other corpora they are no paths.
    data = dataclasses.replace(data, corpus="tfds:x", train="train[:9]", test="~")
    save_config(Config(data=data), home / "config.json")
    saved = load_config(home / "config.json").data
    assert (saved.train, saved.test) == ("train[:9]", "~")


def test_a_text_may_move_but_another_is_another(home):
    allows = OPTIONS["data.train"].allows
    assert allows("a.en,a.de", "/new place/a.en,/b/a.de", Change.ON_RESUME)
    for other in ("a.en,b.de", "a.de,a.en", "a.en", ""):
        assert not allows("a.en,a.de", other, Change.ON_RESUME)


def test_names_with_commas_are_quoted(home):
    write_text(home / "news, 2020", ("a,b.en", "a,b.de"))
    quoted = '"~/news, 2020/a,b.en", "~/news, 2020/a,b.de"'
    data = DataConfig(corpus="files", train=quoted, held_out_size=7)
    read = corpora.load_split(data, "train")
    assert len(read.pairs) > 100
    save_config(Config(data=data), home / "config.json")
    assert corpora.load_split(load_config(home / "config.json").data, "train") == read
    names = ["a", "b,c", 'd"e', '"', " f", ""]
    assert storage.split_paths(storage.join_paths(names)) == [name.strip() for name in names]


@pytest.mark.parametrize("train", ["news,2020/a.en,news,2020/a.de", "news,2020/pairs.tsv"])
def test_an_error_about_commas_names_the_quotes(home, train):
    message = refused(corpora.load_split, DataConfig(corpus="files", train=train), "train")
    assert """in double quotes: '"a,b.en","a,b.de"'""" in message
    assert "data.train" in refused(
        corpora.load_split, DataConfig(corpus="files", train='"a.en,b.de'), "train"
    )


def test_an_error_names_the_absolute_path(home):
    data = DataConfig(corpus="files", train="a.en,a.de")
    assert f"{home.parent}/a.en does not exist" in refused(corpora.load_split, data, "train")
    data.path = "~/text"
    assert f"{home}/text/a.en does not exist" in refused(corpora.load_split, data, "train")
    assert Path(storage.path("a/b")).is_absolute()
