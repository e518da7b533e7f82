"""The command line: options reach the configuration with their types; a mistake is one line."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from launching import ROOT

from transformer_jax.config import experiment_files
from transformer_jax.config.files import save_config
from transformer_jax.config.options import Config
from transformer_jax.errors import UserError
from transformer_jax.modes import command_line, evaluate, launch, resume_proof
from transformer_jax.modes.launch import command
from transformer_jax.training import run as training_run

EXPERIMENT = """
from transformer_jax.config.options import Config
def get_config(name="tiny"):
    config = Config(name=name)
    config.model.d_ff = 17
    return config
def sweep(name="tiny"):
    for layers in (2, 3, 5):
        yield {"name": f"{name}_{layers}", "model.num_layers": layers, "model.dropout_rate": 0}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(EXPERIMENT)
    (tmp_path / "default.py").write_text(EXPERIMENT.replace("17", "19"))
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """run(*arguments) -> (what the mode was given: configuration, mode), or (status, stderr)."""

    def call(*arguments):
        seen = []
        for mode in ("train", "evaluate"):
            stand_in = ModuleType(mode, doc="Stand in.")
            stand_in.define = command_line.load_mode(mode).define
            stand_in.run = lambda launch: seen.append((launch.config, launch.mode)) or 0
            monkeypatch.setitem(sys.modules, f"transformer_jax.modes.{mode}", stand_in)
        with pytest.raises(SystemExit) as caught:
            command_line.main(["launch.py", *arguments], default_experiment=folder / "default.py")
        return seen[0] if seen else (caught.value.code, capsys.readouterr().err)

    return call


def refusal(result):
    assert len(result) == 2, "main was called"
    status, error = result
    assert status == 2
    assert error.startswith("error: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1
    return error


def expected(**options):
    """tiny.py's configuration with other options, by dotted name (with __ for .)."""
    config = Config(name="tiny")
    config.model.d_ff = 17
    for name, value in options.items():
        section, _, option = name.rpartition("__")
        setattr(getattr(config, section) if section else config, option, value)
    return config


# --------------------------------------------------------------------------- which configuration
@pytest.mark.fast
def test_which_experiment_is_meant(run, folder):
    assert run("--config=tiny.py") == (expected(), "train")
    assert run("--config=tiny.py:one:two")[0] == expected(name="one:two")
    assert run(f"--config={folder}/tiny.py")[0] == expected()
    assert run("--config=experiments/multi30k_en_de.py")[0].name == "multi30k_en_de"
    for default in ([], ["--workdir=nothing_there_yet"]):
        assert run(*default)[0].model.d_ff == 19


def test_the_workdirs_configuration_when_none_is_named(run, folder):
    (folder / "run").mkdir()
    save_config(expected(seed=5, model__d_ff=23), folder / "run" / "config.json")
    assert run("--workdir=run")[0] == expected(seed=5, model__d_ff=23)
    overridden = run("--workdir=run", "--config.model.num_layers=3", "--mode=evaluate")
    assert overridden == (expected(seed=5, model__d_ff=23, model__num_layers=3), "evaluate")
    assert run("--config=tiny.py", "--workdir=run")[0] == expected()
    (folder / "config.json").write_text("{")
    assert "config.json is damaged" in refusal(run("--workdir=."))


@pytest.mark.fast
def test_a_missing_file_names_the_nearest(run, folder):
    error = refusal(run("--config=tinny.py"))
    assert "--config=tinny.py" in error and "did you mean tiny.py?" in error
    for file in ("no/such/folder/tiny.py", "", "."):
        assert "there is no such file" in refusal(run(f"--config={file}"))
    (folder / "experiments").mkdir()
    (folder / "experiments" / "quickstart.py").write_text(EXPERIMENT)
    error = refusal(run("--config=experiment/quickstart.py"))
    assert f"did you mean {os.path.join('experiments', 'quickstart.py')}?" in error


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("text.txt", "hello", "is not a Python file"),
        ("nothing.py", "x = 1", "has no function get_config()"),
        ("wrong.py", "def get_config(): return {'seed': 1}", "returned a dict, not a Config"),
    ],
)
def test_a_file_that_is_not_an_experiment(run, folder, name, content, part):
    (folder / name).write_text(content)
    error = refusal(run(f"--config={name}"))
    assert name in error and part in error


@pytest.mark.parametrize("name", ["config", "workdir", "sweep_index", "mode"])
def test_a_space_instead_of_the_equals_sign(run, name):
    assert f"write --{name}=tiny.py, with an equals sign" in refusal(run(f"--{name}", "tiny.py"))
    assert f"write --{name}=…" in refusal(run(f"--{name}"))


# ------------------------------------------------------------------------------ points of a sweep
def point(layers, name="tiny", **options):
    changed = {"model__num_layers": layers, "model__dropout_rate": 0.0} | options
    return expected(name=f"{name}_{layers}", **changed)


@pytest.mark.fast
def test_a_point_of_a_sweep(run):
    config, mode = run("--config=tiny.py", "--sweep_index=1")
    assert (config, mode) == (point(3), "train")
    assert type(config.model.dropout_rate) is float, "a whole number was given for a number"
    assert run("--sweep_index=0", "--config=tiny.py:huge")[0] == point(2, "huge")
    assert run("--config=tiny.py")[0] == expected(), "the points are not kept"
    config = run("--config=tiny.py", "--config.model.num_layers=7", "--sweep_index=2")[0]
    assert config == point(5, model__num_layers=7), "the command line's override wins"


def test_a_point_in_a_workdir_that_has_another_configuration(run, folder):
    save_config(expected(seed=5), folder / "config.json")
    assert run("--config=tiny.py", "--sweep_index=1", "--workdir=.")[0] == point(3)
    error = refusal(run("--workdir=.", "--sweep_index=1"))
    assert "--sweep_index needs --config=FILE.py" in error


@pytest.mark.parametrize(
    ("index", "parts"),
    [
        *((i, [f"--sweep_index={i}: ", "sweep() of tiny.py has 3 points"]) for i in ("3", "-1")),
        *((i, [f"{i!r} is not a whole number"]) for i in ("one", "1.5", "")),
    ],
)
def test_an_index_that_names_no_point(run, index, parts):
    error = refusal(run("--config=tiny.py", f"--sweep_index={index}"))
    assert all(part in error for part in parts)


WITHOUT_SWEEP = EXPERIMENT.partition("def sweep")[0]


@pytest.mark.parametrize(
    ("points", "part"),
    [
        ('{"name": "a", "model.layers": 2}', "point 0 of sweep() of bad.py: there is no option"),
        ('{"name": "a", "model.d_f": 2}', "did you mean model.d_ff?"),
        ('{"name": "a", "num_heads": 2}', "did you mean model.num_heads?"),
        ('{"name": "a", "model": 2}', "there is no option model"),
        ('{"name": "a", "model.d_ff": 2.0}', "model.d_ff=2.0 is not a whole number"),
        ('{"name": "a", "model.d_ff": True}', "model.d_ff=True is not a whole number"),
        ('{"name": "a", "model.dropout_rate": False}', "dropout_rate=False is not a number"),
        ('{"name": "a", "model.norm": 1}', "model.norm=1 is not text"),
        ('{"name": "a", "model.attention_bias": 1}', "attention_bias=1 is not true or false"),
        ('("name", "a")', "point 0 of sweep() of bad.py is a tuple, not a dict"),
        ('{"seed": 1}', "point 0 of sweep() of bad.py needs a name of its own"),
        ('{"name": "a"}, {"name": "a"}', "point 1 of sweep() of bad.py needs a name of its own"),
    ],
)
def test_an_invalid_sweep(run, folder, points, part):
    (folder / "bad.py").write_text(WITHOUT_SWEEP + f"def sweep(): return [{points}]\n")
    assert part in refusal(run("--config=bad.py", "--sweep_index=0"))


def test_a_file_without_a_sweep(run, folder):
    (folder / "single.py").write_text(WITHOUT_SWEEP)
    error = refusal(run("--config=single.py", "--sweep_index=0"))
    assert "--config=single.py has no function sweep()" in error
    assert "there is no such file" in refusal(run("--config=tinny.py", "--sweep_index=0"))


def test_a_sweep_may_take_the_argument(folder):
    names = [p["name"] for p in experiment_files.load_sweep(Path("tiny.py:huge"))]
    assert names == ["huge_2", "huge_3", "huge_5"]
    plain = [{"name": "b", "seed": 3}]
    (folder / "plain.py").write_text(WITHOUT_SWEEP + f"def sweep(): return {plain}\n")
    assert experiment_files.load_sweep(Path("plain.py:huge")) == plain


# -------------------------------------------------------------------------------------- overrides
@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("--config.model.num_layers=2", "model__num_layers", 2),
        ("-config.model.num_layers=2", "model__num_layers", 2),
        ("--config.parallel.data=-1", "parallel__data", -1),
        ("--config.model.dropout_rate=.3", "model__dropout_rate", 0.3),
        ("--config.model.dropout_rate=0", "model__dropout_rate", 0.0),
        ("--config.optimizer.epsilon=1e-7", "optimizer__epsilon", 1e-7),
        ("--config.name=7", "name", "7"),
        ("--config.demo=", "demo", ""),
        ("--config.demo=a=b, c", "demo", "a=b, c"),
        ("--config.demo=我有一只猫", "demo", "我有一只猫"),
        ("--config.model.norm=pre", "model__norm", "pre"),
        ("--config.train.tensorboard=False", "train__tensorboard", False),
        ("--config.train.tensorboard=0", "train__tensorboard", False),
        ("--noconfig.train.tensorboard", "train__tensorboard", False),
        ("--config.model.attention_bias", "model__attention_bias", True),
        ("--config.model.attention_bias=true", "model__attention_bias", True),
    ],
)
def test_an_override_has_the_options_type(run, argument, name, value):
    config, *_ = run("--config=tiny.py", argument)
    assert config == expected(**{name: value})
    section, _, option = name.rpartition("__")
    assert type(getattr(getattr(config, section) if section else config, option)) is type(value)


def test_several_overrides_in_any_order_and_the_last_wins(run):
    config, *_ = run(
        "--config.seed=3", "--config.model.norm=pre", "--config=tiny.py", "--config.seed=4"
    )
    assert config == expected(seed=4, model__norm="pre")
    assert run("--config=tiny.py")[0] == expected(), "the next call has forgotten them"
    config, *_ = run("--config=tiny.py", "--config.model.num_layers", "3")
    assert config == expected(model__num_layers=3)


def test_options_from_a_flag_file(run, folder):
    (folder / "flags").write_text("--config=tiny.py\n--config.seed=3\n")
    assert run("--flagfile=flags")[0] == expected(seed=3)
    (folder / "flags").write_text("--config.sed=3\n")
    assert "did you mean seed?" in refusal(run("--flagfile=flags"))
    message = refusal(run("--flagfile=no_such_file"))
    assert "no_such_file" in message and "ERROR" not in message


@pytest.mark.fast
@pytest.mark.parametrize(
    ("argument", "near"),
    [
        ("--config.model.num_layer=2", "model.num_layers"),
        ("--config.num_layers=2", "model.num_layers"),
        ("--config.modle.d_ff=2", "model.d_ff"),
        ("--config.train.num_heads=2", "model.num_heads"),
        ("--config.model.steps=2", "train.steps"),
        ("--config.epsilon=2", "optimizer.epsilon"),
        ("--config.sed=2", "seed"),
        ("--noconfig.train.tensorbord", "train.tensorboard"),
        ("--config.model.num_layer", "model.num_layers"),
    ],
)
def test_an_unknown_option_names_the_nearest(run, argument, near):
    error = refusal(run("--config=tiny.py", argument))
    name = argument.partition("=")[0].lstrip("-").removeprefix("no")
    assert f"--{name} " in error
    assert f"did you mean {near}?" in error


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("--config.model.num_layers=two", "'two' is not a whole number"),
        ("--config.model.num_layers=2.5", "'2.5' is not a whole number"),
        ("--config.model.dropout_rate=high", "'high' is not a number"),
        ("--config.train.tensorboard=maybe", "'maybe' is not true or false"),
        *((f"--config.{name}", "") for name in ("xyzzy.qq=3", "model=3", "=3")),
        *((f"--config.model.num_layers{value}", "") for value in ("", "=")),
        ("--noconfig.seed", ""),
    ],
)
def test_a_value_of_the_wrong_type_or_of_no_option(run, argument, part):
    error = refusal(run("--config=tiny.py", argument))
    assert argument.partition("=")[0].lstrip("-") in error
    assert part in error


NEITHER = "belongs to --mode=train, evaluate, not compare"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--wrkdir=x"], ["wrkdir", "workdir"]),
        (["--mode=trian"], ["--mode=trian", "train"]),
        (["extra"], ["unexpected argument 'extra'\n"]),
        (["evaluate"], ["did you mean --mode=evaluate?"]),
        (["--split=valid"], ["--split belongs to --mode=evaluate, score, compare, not train"]),
        (["--kills=3"], ["--kills belongs to --mode=verify_resume, not"]),
        # One begins with "no", the other one means it.
        (["--mode=compare", "--nodes=2"], [f"--nodes {NEITHER}"]),
        (["--mode=compare", "--nokeep"], [f"--nokeep {NEITHER}"]),
    ],
)
def test_what_a_mode_does_not_take(run, arguments, parts):
    error = refusal(run("--config=tiny.py", *arguments))
    assert all(part in error for part in parts)


@pytest.mark.fast
@pytest.mark.parametrize("mode", command_line.MODES)
def test_the_help_of_a_mode_shows_its_flags_and_no_others(mode, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main(["launch.py", f"--mode={mode}", "--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    shown = set(re.findall(r"^  --(\w+)", printed, re.MULTILINE)) - {"config"}
    assert shown == set(command_line.define_flags(mode)) - {"mode"}
    for text in re.findall(r"^      (.+)", printed, re.MULTILINE):
        assert text.endswith("."), text


@pytest.mark.fast
def test_plain_help_lists_the_modes_without_jax(capsys):
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit):
            command_line.main(["launch.py", flag])
        printed = capsys.readouterr().out
        for mode in command_line.MODES:
            assert re.search(rf"^  --mode={mode} +[A-Z].*\.$", printed, re.MULTILINE), mode
    code = (
        "import sys; from transformer_jax.modes import command_line as c\n"
        "[c.help_of(mode) for mode in c.MODES]; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_an_interrupt_during_the_imports_is_quiet(tmp_path):
    (tmp_path / "absl.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    paths = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for program in [str(ROOT / "launch.py")], ["-m", "transformer_jax"]:
        command = [sys.executable, *program, "--help"]
        done = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "\ninterrupted\n")


def test_an_error_in_a_mode_is_one_line_and_an_interrupt_is_quiet(folder, monkeypatch, capsys):
    for raised, status, printed in (
        (UserError("no\ncat"), 2, "error: no cat\n"),
        (OSError(28, "No space left", "disk"), 2, "error: disk: No space left\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    ):

        def run(argv, default, raised=raised):
            raise raised

        monkeypatch.setattr(command_line, "run", run)
        with pytest.raises(SystemExit) as caught:
            command_line.main(["launch.py"])
        assert (caught.value.code, capsys.readouterr().err) == (status, printed)


# --------------------------------------------------------------------------------- other processes
def test_the_children_of_verify_resume_get_the_experiment_and_its_overrides(folder, monkeypatch):
    given = ["--config=tiny.py", "--sweep_index=1", "--config.seed", "1", "--config.demo=a b"]
    more = ["--noconfig.train.tensorboard", "-config.model.d_ff=3"]
    seen = []
    monkeypatch.setattr(
        resume_proof, "prove", lambda config, line, *rest, **options: seen.append(line) or PASSED
    )
    line = ["launch.py", "--mode=verify_resume", *given, "--kills", "3", "--workdir=x", *more]
    assert command_line.run(line, folder / "default.py") == 0
    assert seen == [[*command(), *given, *more]]


PASSED = SimpleNamespace(text="", passed=True)


def test_another_launcher_starts_from_any_folder(tmp_path, monkeypatch):
    done = subprocess.run([*command(), "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert "--mode=train" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "transformer_jax", "--mode=replay", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "python -m transformer_jax --mode=replay --workdir=" in done.stdout
    monkeypatch.setattr(launch, "checkout_folder", lambda: tmp_path)  # as of a wheel
    assert command() == [sys.executable, "-m", "transformer_jax"]


def test_what_a_mode_sets_before_jax_is_set_when_it_runs(run, monkeypatch):
    monkeypatch.setenv("A_SETTING", "before")
    seen = []
    stand_in = ModuleType("report", doc="Stand in.")
    stand_in.define = command_line.load_mode("report").define
    stand_in.BEFORE_JAX = {"A_SETTING": "set"}
    stand_in.run = lambda launch: seen.append(os.environ["A_SETTING"]) or 0
    monkeypatch.setitem(sys.modules, "transformer_jax.modes.report", stand_in)
    run("--mode=report", "--config=tiny.py")
    assert seen == ["set"]


def test_training_evaluates_and_shows_the_model_that_it_loaded_once(folder, monkeypatch, capsys):
    model, seen = SimpleNamespace(translate=lambda text: f"<{text}>"), []

    def train(config, workdir, **options):
        seen.append(options)
        return SimpleNamespace(model=model)

    monkeypatch.setattr(training_run, "train", train)
    monkeypatch.setattr(
        evaluate, "evaluate", lambda *given, **options: seen.append((given, options))
    )
    line = ["launch.py", "--weights=best", "--workdir=x", "--config.demo=a b"]
    assert command_line.run(line, folder / "default.py") == 0
    assert seen[0] == {"weights": "best", "profile": None}
    assert seen[1] == ((model, folder / "x"), {"split": "test", "weights": "best"})
    printed = capsys.readouterr().out
    assert "a b → <a b>\n" in printed
    assert f"echo a b | python launch.py --mode=translate --workdir={folder}/x\n" in printed
