"""The options: what is refused, what may change when, and that a saved configuration comes back."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import ROOT, refused

from transformer_jax.config import documentation
from transformer_jax.config.checks import check_config
from transformer_jax.config.files import (
    differences,
    load_config,
    refuse_differences,
    save_config,
    with_absolute_paths,
)
from transformer_jax.config.metadata import Change
from transformer_jax.config.options import OPTIONS, Config, flatten, set_option
from transformer_jax.errors import UserError
from transformer_jax.training.step import Hyperparameters

NAN, INF = math.nan, math.inf


def with_options(changes):
    config = Config()
    for name, value in changes.items():
        group, _, last = name.rpartition(".")
        setattr(getattr(config, group) if group else config, last, value)
    return config


# ----------------------------------------------------------------------------------- single options
@pytest.mark.fast
def test_the_defaults_are_valid_and_of_the_types_that_config_flags_knows():
    assert check_config(Config()) == Config()
    for option in OPTIONS.values():
        assert type(option.default) is option.kind in (int, float, bool, str), option.name


# Written by hand: a wrong limit in the metadata would be right everywhere else.
@pytest.mark.fast
@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("seed", [-1, 2**32], [0, 2**32 - 1]),
        ("data.train_size", [-1], [0, 1]),
        ("data.batch_rows", [-1, 0], [1]),
        ("model.num_layers", [-3, 0], [1]),
        ("model.num_decoder_layers", [-1], [0, 1]),
        ("model.d_key", [-1], [0, 64]),
        ("decode.repetition_penalty", [0.0, -1.5], [0.5, 1]),
        ("decode.first_id", [-1, 1, 2], [0, 3]),
        ("decode.forbidden_ids", ["5;6", "5,", "a", "-5"], ["", " ", "5", "5, 6 7"]),
        ("train.r_drop", [-1.0, NAN, INF], [0.0, 5]),
        ("model.dropout_rate", [-0.1, 1.0, 7.0, NAN], [0.0, 0.99, 0]),
        ("model.layer_norm_epsilon", [0.0, -1e-6], [1e-12]),
        ("model.positions", ["", "Learned"], ["sinusoidal", "learned"]),
        ("optimizer.learning_rate_scale", [0.0, -1.0, NAN, INF], [1e-3, 2]),
        ("optimizer.beta2", [-0.1, 1.0], [0.0, 0.999]),
        ("optimizer.clip_norm", [-0.5, INF, NAN], [0.0, 1.0]),
        ("optimizer.label_smoothing", [-0.1, 1.0], [0.0, 0.3]),
        ("train.steps", [-1, 0], [1]),
        ("train.evaluate_every", [-1000], [0, 1000]),
        ("train.divergence_factor", [1.0, 0.5, -1.0], [0.0, 1.01]),
        ("train.grace_seconds", [0.0], [0.5]),
        ("decode.method", ["beams"], ["beam", "greedy", "sample"]),
        ("decode.length_penalty", [INF], [-0.5, 0.0]),
        ("decode.top_k", [-1], [0]),
        ("decode.top_p", [0.0, 1.5], [0.5, 1.0]),
        ("parallel.tensor", [0, -2], [-1, 4]),
    ],
)
def test_limits(name, bad, good):
    for value in bad:
        assert f"{name}={value!r} " in refused(check_config, with_options({name: value}))
    for value in good:
        check_config(with_options({name: value}))


def should_accept(option, value):
    """An oracle for `Option.check`."""
    if option.kind in (bool, str):
        return type(value) is option.kind and (not option.choices or value in option.choices)
    if type(value) is bool or not isinstance(value, (option.kind, int)):
        return False
    lower = (-INF if limit is None else limit for limit in (option.above, option.at_least))
    upper = (INF if limit is None else limit for limit in (option.below, option.at_most))
    (above, at_least), (below, at_most) = lower, upper
    inside = above < value < below and at_least <= value <= at_most
    return inside or (option.also is not None and value == option.also)


NUMBERS = st.integers(-3, 3) | st.integers() | st.floats() | st.floats(-3, 3)


@given(st.sampled_from(sorted(OPTIONS)), NUMBERS | st.booleans() | st.text(max_size=5))
def test_a_value_outside_of_its_options_range_is_refused_by_name(name, value):
    try:
        OPTIONS[name].check(value)
        assert should_accept(OPTIONS[name], value)
    except UserError as e:
        assert not should_accept(OPTIONS[name], value)
        assert name in str(e)
        assert str(e) == refused(check_config, with_options({name: value}))


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.choices])
def test_choices(name):
    choices = OPTIONS[name].choices
    message = refused(check_config, with_options({name: "nonsense"}))
    assert f"{name}='nonsense' is none of: {', '.join(choices)}" in message
    near = refused(check_config, with_options({name: choices[-1] + "s"}))
    assert near.endswith(f"(did you mean {choices[-1]}?)")
    for choice in choices:
        fused = {}
        if choice in ("cudnn", "splash"):  # bfloat16 alone; rows of whole blocks
            fused = {"data.source_row_length": 128, "data.target_row_length": 128}
            fused["model.compute_dtype"] = "bfloat16"
        check_config(with_options(fused | {name: choice}))


def test_an_error_has_the_range_or_the_nearest_name():
    for name, value, words in [
        ("model.d_ff", 0, "model.d_ff=0 must be above 0"),
        ("model.dropout_rate", 1.0, "model.dropout_rate=1.0 must be at least 0 and below 1"),
        ("parallel.fsdp", 0, "parallel.fsdp=0 must be above 0, or -1"),
        ("optimizer.beta1", INF, "optimizer.beta1=inf must be a finite number"),
        ("model.d_ff", "7", "model.d_ff='7' is not a whole number"),
        ("model.d_ff", True, "model.d_ff=True is not a whole number"),
        ("train.tensorboard", 1, "train.tensorboard=1 is not true or false"),
    ]:
        assert refused(check_config, with_options({name: value})) == words
    message = refused(check_config, with_options({"model.num_layer": 2}))
    assert message == "there is no option model.num_layer (did you mean model.num_layers?)"
    message = refused(check_config, with_options({"epsilon": 2.0}))
    assert message == "there is no option epsilon (did you mean optimizer.epsilon?)"


def test_only_an_exponent_and_free_text_have_no_range():
    texts = {"name", "demo", "data.corpus", "data.path", "data.train", "data.valid", "data.test"}
    texts |= {"data.source_language", "data.target_language", "model.pretrained_embeddings"}
    texts |= {"decode.forbidden_ids", "decode.target_token", "train.frozen", "train.start_from"}
    unlimited = {o.name for o in OPTIONS.values() if not (o.kind is bool or o.range or o.choices)}
    assert unlimited == texts | {"decode.length_penalty"}


# ------------------------------------------------------------------------------------ combinations
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model.num_heads": 7}, ["model.d_model=512", "model.num_heads=7"]),
        ({"model.d_model": 7, "model.num_heads": 7}, ["model.d_model=7", "even"]),
        ({"model.positions": "learned", "model.max_positions": 61}, ["max_positions=61", "64"]),
        ({"train.r_drop": 5.0, "model.dropout_rate": 0.0}, ["r_drop=5.0", "needs dropout"]),
        ({"train.accumulate": 3}, ["data.batch_rows=64", "train.accumulate=3"]),
        ({"train.evaluate_every": 7}, ["train.evaluate_every=7", "train.checkpoint_every=1000"]),
        ({"train.frozen": "encoder|("}, ["train.frozen='encoder|('", "no regular expression"]),
        (
            {"train.start_from": "runs/a", "model.pretrained_embeddings": "b.vec"},
            ["model.pretrained_embeddings=b.vec", "train.start_from=runs/a"],
        ),
        ({"train.patience": 3, "train.evaluate_every": 0}, ["patience=3", "evaluate_every=0"]),
        ({"data.shared_vocabulary": False}, ["shared_vocabulary=False", "tied_embeddings='all'"]),
        ({"parallel.strategy": "single", "parallel.tensor": 2}, ["'single' has no mesh", "1, 2"]),
        ({"parallel.strategy": "pmap", "parallel.data": 2}, ["parallel.strategy='pmap'", "2, 1"]),
        # These go together after all.
        ({"train.keep_every": 7}, []),
        ({"model.num_heads": 7, "model.d_key": 64, "model.d_value": 64}, []),
        ({"model.d_model": 7, "model.num_heads": 1, "model.positions": "learned"}, []),
        ({"data.shared_vocabulary": False, "model.tied_embeddings": "target_softmax"}, []),
    ],
)
def test_values_that_do_not_go_together_are_both_named(changes, named):
    config = with_options(changes)
    if named:
        message = refused(check_config, config)
        assert all(part in message for part in named), message
    else:
        assert check_config(config) is config


# ----------------------------------------------------------------------------------------- metadata
ANY_TIME = """name demo data.path train.log_every train.tensorboard train.grace_seconds
    parallel.strategy parallel.data parallel.fsdp parallel.tensor"""
ON_RESUME = """data.source_language data.target_language train.steps train.evaluate_every
    train.evaluate_sentences train.keep_every train.max_skipped train.divergence_factor
    train.patience train.choose_average
    train.divergence_steps decode.beam_size decode.length_penalty decode.length_penalty_form
    decode.extra_length decode.target_token decode.max_length decode.no_repeat_ngram_size
    decode.repetition_penalty
    decode.forbidden_ids decode.first_id decode.method decode.temperature decode.top_k decode.top_p
    decode.choose decode.candidates decode.utility decode.reverse_weight decode.batch_size"""
NEVER = """data.vocab_size data.shared_vocabulary model.num_layers model.num_encoder_layers
    model.num_decoder_layers model.d_model model.d_ff data.normalization
    model.num_heads model.d_key model.d_value model.activation model.norm
    model.layer_norm_epsilon model.positions model.sinusoid_layout model.max_positions
    model.attention_bias model.tied_embeddings model.scale_embeddings model.logits_bias"""


def test_what_may_change_and_when_and_what_is_traced():
    known = {Change.ANY_TIME: ANY_TIME, Change.ON_RESUME: ON_RESUME, Change.NEVER: NEVER}
    for change, names in known.items():
        assert {o.name for o in OPTIONS.values() if o.may_change == change} == set(names.split())
    traced = {name.rpartition(".")[2] for name, option in OPTIONS.items() if option.traced}
    assert traced == {field.name for field in dataclasses.fields(Hyperparameters)}
    off = {name for name, option in OPTIONS.items() if option.none_if_zero}
    rates = {f"model.{name}dropout_rate" for name in ("", "attention_", "activation_")}
    assert off == {"optimizer.clip_norm", "optimizer.weight_decay", "train.r_drop", *rates}


def test_the_page_of_options_is_current():
    page = (ROOT / documentation.PAGE).read_text(encoding="utf-8")
    command = "python -m transformer_jax.config.documentation"
    assert page == documentation.options_page(), f"run: {command}"
    assert command in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == list(OPTIONS)
    assert all(len(row) == 6 and row[-1].endswith(". |") for row in rows)


# ------------------------------------------------------------------------------------ save and load
def all_changed():
    def changed(value):
        if isinstance(value, bool):
            return not value
        return value + "他" if isinstance(value, str) else value + 3

    return with_options({name: changed(value) for name, value in flatten(Config()).items()})


@pytest.mark.fast
def test_a_saved_configuration_comes_back_and_what_it_lacks_is_the_default(tmp_path):
    for config in (Config(), all_changed()):
        path = tmp_path / "config.json"
        save_config(config, path)
        loaded, text = load_config(path), path.read_text(encoding="utf-8")
        assert loaded == with_absolute_paths(config)
        assert all(type(value) is OPTIONS[name].kind for name, value in flatten(loaded).items())
        assert json.loads(text) == dataclasses.asdict(loaded)
        assert config.demo in text, "it is for people too"
    path = tmp_path / "config.json"
    path.write_text('{"model": {"d_ff": 17}, "decode": {}}')
    assert load_config(path) == with_options({"model.d_ff": 17})


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"model": {"d_fff": 1}}', "lacks: model.d_fff"),
        (b'{"modle": {"d_ff": 1}}', "lacks: modle.d_ff"),
        (b'{"model": 3}', "lacks: model"),
        (b'{"model": {"d_ff": 1.5}}', "damaged: model.d_ff=1.5 is not a whole number"),
        (b'{"model": {"d_ff": {}}}', "damaged: model.d_ff={} is not a whole number"),
        *((content, "damaged") for content in (b'{"model": {"d_ff"', b"[1]", b"", b"\xff\xfe")),
        (None, "is not a workdir"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, named):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    message = refused(load_config, path)
    assert str(tmp_path) in message and named in message


# -------------------------------------------------------------------------------------- differences
def test_differences_have_both_values(tmp_path):
    then = flatten(Config())
    now = flatten(with_options({"model.d_ff": 1024, "train.steps": 7, "train.log_every": 3}))
    assert differences(then, then) == {}
    assert differences(then, now) == {
        "model.d_ff": (2048, 1024),
        "train.steps": (100_000, 7),
        "train.log_every": (50, 3),
    }
    assert differences(then, flatten(all_changed())).keys() == then.keys()
    assert differences({}, now) == differences(then, now), "what was not saved had its default"
    for moment, names in [
        (Change.AFTER_TRAINING, ["model.d_ff"]),
        (Change.ON_RESUME, ["model.d_ff"]),
        (Change.ANY_TIME, ["model.d_ff", "train.steps"]),
    ]:
        assert list(differences(then, now, moment)) == names
    none, here, there = ({"model.pretrained_embeddings": path} for path in ("", "a.vec", "b.vec"))
    for moment in (Change.ON_RESUME, Change.ANY_TIME):
        assert differences(here, there, moment) == {}
        assert differences(none, here, moment) and differences(here, none, moment)
    assert differences(none, here, Change.AFTER_TRAINING) == {}
    refuse_differences(tmp_path, {})
    differing = {"model.d_ff": (512, 1024), "name": ("a", "b")}
    words = "model.d_ff: 512 in the workdir, 1024 now; name: 'a' in the workdir, 'b' now"
    message = refused(refuse_differences, tmp_path, differing)
    assert message.startswith(f"{tmp_path} holds another experiment ({words}): choose another")


def test_a_whole_number_will_do_for_a_number_and_becomes_one():
    config = Config()
    set_option(config, "optimizer.clip_norm", 1)
    assert config.optimizer.clip_norm == 1.0 and type(config.optimizer.clip_norm) is float
    message = refused(set_option, config, "optimizer.clip_norm", 10**400)
    assert "optimizer.clip_norm must be a finite number" in message
