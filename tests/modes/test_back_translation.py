"""The recipe of docs/back_translation.md, in tiny: three commands, from the text to the mix."""

import pytest
from launching import TINY, config_of, launch, refused

import transformer_jax as tj
from experiments import back_translation
from transformer_jax.config.checks import check_config
from transformer_jax.data import corpora

FILE = "experiments/back_translation.py"
TAG = ">>bt<<"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe") / "text"
    back_translation.write_text(folder, pairs=97, alone=211, held_out=31)
    return folder


def lines(file):
    return file.read_text(encoding="utf-8").splitlines()


@pytest.mark.fast
def test_the_target_text_has_no_sentence_of_another_split(text):
    alone = lines(text / "mono.en")
    assert len(set(alone)) == len(alone) == 211
    for split, size in {"train": 97, "valid": 31, "test": 31}.items():
        assert len(lines(text / f"{split}.zh")) == len(lines(text / f"{split}.en")) == size
        assert not {*alone} & {*lines(text / f"{split}.en")}


@pytest.mark.fast
def test_all_parts_train_one_model_for_as_long():
    parts = [check_config(back_translation.get_config(part)) for part in ("", "forward", "reverse")]
    assert len({config.name for config in parts}) == 3
    for section in ("model", "optimizer", "train", "decode"):
        assert getattr(parts[0], section) == getattr(parts[1], section)
        assert getattr(parts[0], section) == getattr(parts[2], section)
    assert "no part 'both'" in refused(back_translation.get_config, "both")


def test_three_commands_train_on_the_mix(text):
    skipped = ("data.train_size", "data.held_out_size")
    flags = [f"--config.{name}={value}" for name, value in TINY.items() if name not in skipped]
    flags += [f"--config.data.path={text}", "--config.train.evaluate_every=0"]
    reverse, mix = text.parent / "reverse", text.parent / "mix"
    back = text / "mono.zh"
    commands = [
        (f"--config={FILE}:reverse", f"--workdir={reverse}", *flags),
        ("--mode=translate", f"--workdir={reverse}", f"--input={text / 'mono.en'}",
         f"--output={back}"),
        (f"--config={FILE}", f"--workdir={mix}", *flags),
    ]  # fmt: skip
    for command in commands:
        done = launch(*command)
        assert done.returncode == 0, done.stderr
    assert len(lines(back)) == 211
    written = [
        (f"{TAG} {chinese.strip()}", english)
        for chinese, english in zip(lines(back), lines(text / "mono.en"), strict=True)
        if chinese.strip()  # a model of four steps may write nothing
    ]
    assert written
    assert f"training: mono: {len(written)} pairs, " in done.stderr
    data = config_of(mix).data
    pairs = corpora.load_split(data, "train").pairs
    assert pairs[97:] == written
    assert pairs[:97] == list(zip(lines(text / "train.zh"), lines(text / "train.en"), strict=True))
    source = tj.load(mix).tokenizers.source
    assert source.codes == (TAG,) and source.pieces(written[0][0])[0] == TAG
