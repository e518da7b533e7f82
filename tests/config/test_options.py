"""The configuration: what validation refuses, and that a saved one comes back."""

import dataclasses
import json
import os
import threading

import pytest

from transformer_jax.config import checks
from transformer_jax.config.checks import check_config
from transformer_jax.config.files import differences, load_config, save_config
from transformer_jax.config.options import Config, flatten
from transformer_jax.errors import UserError, nearest
from transformer_jax.storage import write_whole


def with_option(name, value):
    config = Config()
    node = config
    *path, last = name.split(".")
    for part in path:
        node = getattr(node, part)
    setattr(node, last, value)
    return config


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.fast
def test_the_defaults_are_valid():
    assert check_config(Config()) == Config()


@pytest.mark.parametrize("name", checks._CHOICES)
def test_choices(name):
    message = refusal(check_config, with_option(name, "nonsense"))
    assert f"{name}='nonsense'" in message
    assert all(choice in message for choice in checks._CHOICES[name])
    for choice in checks._CHOICES[name]:
        config = with_option(name, choice)
        if choice in ("cudnn", "splash"):  # bfloat16 alone; rows of whole blocks
            config.model.compute_dtype = "bfloat16"
            config.data.source_row_length = config.data.target_row_length = 128
        check_config(config)


@pytest.mark.parametrize("value", [0, -3, float("nan")])
@pytest.mark.parametrize("name", checks._POSITIVE)
def test_positive(name, value):
    assert f"{name}={value}" in refusal(check_config, with_option(name, value))


def test_numbers_are_finite():
    floats = [n for n, v in flatten(Config()).items() if isinstance(v, float)]
    assert "optimizer.clip_norm" in floats
    for name in floats:
        error = refusal(check_config, with_option(name, float("inf")))
        assert f"{name}=inf must be a finite number" in error


@pytest.mark.parametrize("name", checks._NOT_NEGATIVE)
def test_not_negative(name):
    assert f"{name}=-2" in refusal(check_config, with_option(name, -2))
    check_config(with_option(name, 0))


@pytest.mark.parametrize("value", [-0.1, 1.0, 7.0, float("nan")])
@pytest.mark.parametrize("name", checks._BELOW_ONE)
def test_below_one(name, value):
    assert f"{name}={value}" in refusal(check_config, with_option(name, value))
    check_config(with_option(name, 0.0))


@pytest.mark.parametrize("value", [0, -2])
@pytest.mark.parametrize("name", checks._SIZES)
def test_sizes(name, value):
    assert f"{name}={value}" in refusal(check_config, with_option(name, value))
    check_config(with_option(name, -1))


@pytest.mark.parametrize("strategy", ["single", "pmap"])
def test_sizes_are_a_meshs(strategy):
    config = with_option("parallel.strategy", strategy)
    check_config(config)
    config.parallel.tensor = 2
    assert f"parallel.strategy={strategy!r} takes no sizes" in refusal(check_config, config)


def test_every_number_has_a_range():
    ranges = {*checks._POSITIVE, *checks._NOT_NEGATIVE, *checks._BELOW_ONE, *checks._SIZES}
    numbers = [name for name, value in flatten(Config()).items() if type(value) in (int, float)]
    # Any exponent is meaningful.
    assert set(numbers) - ranges == {"decode.length_penalty"}


def test_every_listed_option_exists():
    listed = {
        *checks._CHOICES, *checks._POSITIVE, *checks._NOT_NEGATIVE, *checks._BELOW_ONE
    }  # fmt: skip
    assert listed <= set(flatten(Config()))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model.num_heads": 7}, ["model.d_model=512", "model.num_heads=7"]),
        ({"model.d_model": 7, "model.num_heads": 7}, ["model.d_model=7", "even"]),
        (
            {"model.positions": "learned", "model.max_positions": 61},
            ["model.max_positions=61", "64"],
        ),
        ({"train.accumulate": 3}, ["data.batch_rows=64", "train.accumulate=3"]),
        (
            {"train.evaluate_every": 1500},
            ["train.evaluate_every=1500", "train.checkpoint_every=1000"],
        ),
        ({"decode.top_p": 1.5}, ["decode.top_p=1.5", "at most 1"]),
    ],
)
def test_values_that_do_not_go_together_are_both_named(changes, named):
    config = Config()
    for name, value in changes.items():
        section, option = name.split(".")
        setattr(getattr(config, section), option, value)
    message = refusal(check_config, config)
    assert all(part in message for part in named), message


def test_heads_need_not_divide_when_their_widths_are_given():
    config = with_option("model.num_heads", 7)
    config.model.d_key = config.model.d_value = 64
    assert check_config(config) is config


def test_an_odd_width_is_allowed_with_learned_positions():
    config = with_option("model.d_model", 7)
    config.model.num_heads, config.model.positions = 1, "learned"
    assert check_config(config) is config


# ------------------------------------------------------------------------------------ save and load
def changed(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + "他" if isinstance(value, str) else value + 3


def all_changed():
    config = Config()
    for name, value in flatten(config).items():
        section, _, option = name.rpartition(".")
        setattr(getattr(config, section) if section else config, option, changed(value))
    return config


@pytest.mark.fast
def test_a_saved_configuration_comes_back(tmp_path):
    for config in (Config(), all_changed()):
        save_config(config, tmp_path / "config.json")
        loaded = load_config(tmp_path / "config.json")
        assert loaded == config
        for name, value in flatten(loaded).items():
            assert type(value) is type(flatten(config)[name]), name


def test_what_a_file_lacks_keeps_its_default(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model": {"d_ff": 17}}')
    assert load_config(path) == with_option("model.d_ff", 17)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"model": {"d_fff": 1}}', "d_fff"),
        ('{"modle": {"d_ff": 1}}', "modle"),
        ('{"model": {"d_ff"', "damaged"),
        ("", "damaged"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, named):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(load_config, path)
    assert str(path) in message
    assert named in message


def test_a_folder_without_configuration_is_no_workdir(tmp_path):
    message = refusal(load_config, tmp_path / "config.json")
    assert f"{tmp_path} is not a workdir" in message


def test_a_saved_file_is_for_people_too(tmp_path):
    save_config(with_option("demo", "我有一只猫"), tmp_path / "config.json")
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    assert "我有一只猫" in text
    assert json.loads(text) == dataclasses.asdict(with_option("demo", "我有一只猫"))


# -------------------------------------------------------------------------------------- differences
def test_differences_name_option_and_both_values():
    now = with_option("model.d_ff", 1024)
    now.train.steps = 7
    assert differences(Config(), Config()) == []
    assert differences(Config(), now) == [
        "model.d_ff: 2048 in the workdir, 1024 now",
        "train.steps: 100000 in the workdir, 7 now",
    ]
    assert len(differences(Config(), all_changed())) == len(flatten(Config()))


def test_nearest():
    assert nearest("tets", ["train", "test"]) == " (did you mean test?)"
    assert nearest("nonsense", ["train", "test"]) == ""


# ------------------------------------------------------------------------------------- write_whole
@pytest.mark.fast
def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "out.de.txt"
    write_whole(path, "猫\n")
    write_whole(path, "狗\r\n")
    assert path.read_bytes() == "狗\r\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"
    path.write_text("before")

    def no_room(file):
        assert [p.name for p in tmp_path.iterdir() if p != path] == ["out.txt.tmp"]
        raise OSError(28, "No space left on device")

    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "a" * 9999 + "\ud800")
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(UserError, match=r"cannot write .*out\.txt: No space left on device"):
        write_whole(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/such/folder/out.txt", "file/out.txt", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot write") as caught:
        write_whole(tmp_path / name, "text")
    assert str(tmp_path / name) in str(caught.value)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    """As root, --output=/dev/null must not make a file of it."""
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    write_whole(path, "猫\n")
    reader.join(timeout=10)
    assert read == ["猫\n".encode()]
    assert path.is_fifo()
