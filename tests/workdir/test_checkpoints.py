"""Checkpoints: the same bits come back, averages are means, the last few and the best stay."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import fill, refused
from toy import assert_same_bits

from transformer_jax.config.options import TrainConfig
from transformer_jax.errors import UserError
from transformer_jax.inference.weights import load_weights
from transformer_jax.parallel import processes
from transformer_jax.parallel.devices import one_device
from transformer_jax.training.step import TrainState
from transformer_jax.workdir import manifest
from transformer_jax.workdir.checkpoints import Checkpoints, restore_before
from transformer_jax.workdir.metrics import bleu_scores


def state_of(step):
    """A state of primes in shape, whose values are the step's own."""
    rng = np.random.default_rng(step)
    numbers = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    params = {"embedding": numbers(7, 3), "layer_0": {"kernel": numbers(3, 5), "bias": numbers(5)}}
    step = jnp.asarray(step, jnp.int32)
    adam = {"mu": jax.tree.map(lambda x: x / 3, params), "count": step}
    return TrainState(step, params, (adam, ()), None)


def blank_state():
    return jax.tree.map(jnp.zeros_like, state_of(0))


def save_all(workdir, bleus, keep=2, keep_every=0):
    """Saves {step: BLEU or None}, each validated after it is saved, and closes."""
    scores = bleu_scores(workdir)
    with Checkpoints(workdir, keep=keep, keep_every=keep_every, scores=scores) as checkpoints:
        for step, bleu in bleus.items():
            checkpoints.save(step, state_of(step))
            if bleu is not None:
                scores[step] = bleu
                with (workdir / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"step": step, "valid": {"bleu": bleu}}) + "\n")


def steps_in(workdir, keep=2):
    with Checkpoints(workdir, keep=keep) as checkpoints:
        return checkpoints.steps()


def params_in(workdir, weights, keep=2, every=1):
    options = TrainConfig(average_checkpoints=keep, checkpoint_every=every)
    return load_weights(workdir, options, weights, blank_state().params, one_device().replicated)


def test_values_that_rounding_would_change_come_back_too(tmp_path):
    odd = jnp.asarray([np.nan, np.inf, -0.0, 1e-45, 1 + 2**-23], jnp.float32)
    params = {"x": odd, "y": odd.astype(jnp.bfloat16)}
    state = TrainState(jnp.asarray(1, jnp.int32), params, (), None)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert_same_bits(checkpoints.restore(jax.tree.map(jnp.zeros_like, state)), state)


@pytest.mark.fast
def test_the_last_state_comes_back_to_the_bit(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert_same_bits(checkpoints.restore(state_of(5)), state_of(5))
        assert checkpoints.steps() == []
    save_all(tmp_path, {3: None, 11: None})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert_same_bits(checkpoints.restore(blank_state()), state_of(11))


@pytest.mark.fast
def test_average_is_the_mean_of_the_last_few(tmp_path):
    save_all(tmp_path, dict.fromkeys([2, 3, 5, 7]), keep=3)
    params, steps = params_in(tmp_path, "average", keep=3)
    assert steps == [3, 5, 7]

    def mean(*leaves):
        return np.mean(np.stack([np.asarray(x, np.float64) for x in leaves]), axis=0)

    expected = jax.tree.map(mean, *(state_of(step).params for step in steps))
    for found, right in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-7)


def test_an_average_of_fewer_than_asked_and_of_fewer_than_were_kept(tmp_path):
    save_all(tmp_path, {2: None}, keep=3)
    params, steps = params_in(tmp_path, "average", keep=3)
    assert steps == [2]
    assert_same_bits(params, state_of(2).params)
    save_all(tmp_path, dict.fromkeys([3, 5]), keep=3)
    assert params_in(tmp_path, "average", keep=2)[1] == [3, 5]
    assert steps_in(tmp_path, keep=3) == [2, 3, 5], "reading deletes nothing"


@pytest.mark.parametrize(
    ("bleus", "best"),
    [({2: 1.5, 3: 17.25, 5: 4.0, 7: None}, 3), ({2: 0.0, 3: None}, 2)],
    ids=["best", "0 is a BLEU like another"],
)
def test_latest_and_best(tmp_path, bleus, best):
    save_all(tmp_path, bleus, keep=2)
    for weights, step in (("latest", max(bleus)), ("best", best)):
        params, steps = params_in(tmp_path, weights)
        assert steps == [step]
        assert_same_bits(params, state_of(step).params)


@pytest.mark.fast
def test_the_last_few_and_the_best_are_kept(tmp_path):
    save_all(tmp_path, {2: 1.5, 3: 17.25, 5: 4.0, 7: None, 11: 3.0}, keep=2)
    assert steps_in(tmp_path) == [3, 7, 11]
    assert params_in(tmp_path, "average")[1] == [7, 11], "the best is no part of the last"


def test_a_better_one_replaces_the_best_over_restarts(tmp_path):
    save_all(tmp_path, {2: 9.0, 3: None, 5: None}, keep=1)
    assert steps_in(tmp_path) == [2, 3, 5], "one to fall back on, besides the last and the best"
    save_all(tmp_path, {7: 10.0, 11: None}, keep=1)
    assert steps_in(tmp_path) == [7, 11]


def test_those_of_every_nth_step_are_kept(tmp_path):
    save_all(tmp_path, dict.fromkeys(range(2, 20, 2)), keep=2, keep_every=6)
    assert steps_in(tmp_path) == [6, 12, 16, 18]


def test_only_the_parameters_are_needed_to_translate(tmp_path):
    save_all(tmp_path, {2: None})
    optimizer = tmp_path / "checkpoints" / "2" / "optimizer"
    assert optimizer.is_dir()
    for file in sorted(optimizer.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    assert_same_bits(params_in(tmp_path, "latest")[0], state_of(2).params)


def test_a_checkpoint_that_was_not_finished_is_none(tmp_path):
    save_all(tmp_path, {2: None})
    unfinished = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp-1"
    (unfinished / "params").mkdir(parents=True)
    assert steps_in(tmp_path) == [2]


@pytest.mark.parametrize(
    ("saved", "weights", "message"),
    [
        *(([], w, "has no checkpoint: train there first") for w in ("average", "latest", "best")),
        ([2, 3], "best", "has no evaluated checkpoint: use --weights=average"),
        ([], "worst", "weights='worst' is none of: average, latest, best"),
    ],
)
def test_weights_that_are_not_there(tmp_path, saved, weights, message):
    save_all(tmp_path, dict.fromkeys(saved))
    assert message in refused(params_in, tmp_path, weights)


# --- What survives. ---


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A workdir with checkpoints of steps 2, 3 and 5."""
    workdir = tmp_path_factory.mktemp("three")
    save_all(workdir, dict.fromkeys([2, 3, 5]), keep=3)
    return workdir


def files_of(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def truncate(path):
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] if size else b"x")


def flip_a_bit(path):
    content = bytearray(path.read_bytes() or b"x")
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damage_to_any_file_is_found_and_the_checkpoint_before_is_used(
    three, tmp_path, damage, capsys
):
    names = files_of(three, 5)
    assert len(names) > 10 and any("optimizer/d/" in name for name in names)
    for number, name in enumerate(names):
        workdir = shutil.copytree(three, tmp_path / str(number))
        damage(workdir / "checkpoints" / "5" / name)
        with Checkpoints(workdir, keep=3) as checkpoints:
            assert_same_bits(checkpoints.restore(blank_state()), state_of(3))
            checkpoints.save(5, state_of(5))  # the step is made again
        assert steps_in(workdir, keep=3) == [2, 3, 5]
        error = capsys.readouterr().err
        # Damage to the manifest may be found in any file.
        found = "" if name == manifest.NAME else name
        assert "the checkpoint of step 5 " in error and found in error
        assert (workdir / "damaged" / "5").is_dir()


def test_translating_does_without_the_damaged(three, tmp_path, capsys):
    workdir, name = shutil.copytree(three, tmp_path / "w"), "params/_METADATA"
    files = {step: workdir / "checkpoints" / str(step) / name for step in (2, 3, 5)}
    truncate(files[3])
    assert params_in(workdir, "average", keep=3)[1] == [2, 5]
    assert f"step 3 is damaged ({name} has been altered); it is not used" in capsys.readouterr().err
    flip_a_bit(files[5])
    assert params_in(workdir, "latest")[1] == [2]
    files[2].unlink()
    every = f"every checkpoint of {workdir} is damaged: see the warnings"
    assert refused(params_in, workdir, "latest") == every
    assert f"step 2 is damaged ({name} is missing)" in capsys.readouterr().err
    with Checkpoints(workdir, keep=3) as checkpoints:
        message = refused(checkpoints.restore, blank_state())
    every = f"every checkpoint in {workdir}/checkpoints is damaged"
    assert f"{every} (the checkpoint of step 5" in message
    assert steps_in(workdir, keep=3) == [2, 3, 5], "nothing is moved if all are damaged"


def test_what_a_stopped_run_saved_besides_changes_no_average(tmp_path):
    with Checkpoints(tmp_path, keep=2, every=2) as checkpoints:
        for step in (2, 3, 4, 5, 6, 7):
            checkpoints.save(step, state_of(step))
            checkpoints.wait()
            average = params_in(tmp_path, "average", every=2)[1]
            # The newest counts: it is what there is of a run that goes no further.
            assert average == {2: [2], 3: [2, 3], 4: [2, 4], 5: [4, 5], 6: [4, 6], 7: [6, 7]}[step]
        assert checkpoints.steps() == [6, 7]


@pytest.mark.parametrize(("lost", "last"), [(5, 3), (2, 5)])
def test_one_without_a_manifest_is_set_aside(three, tmp_path, lost, last, capsys):
    """It may be what a killed save left, or its manifest was lost: it is kept elsewhere."""
    workdir = shutil.copytree(three, tmp_path / "w")
    folder = workdir / "checkpoints"
    (folder / str(lost) / manifest.NAME).unlink()
    unfinished = folder / "7.orbax-checkpoint-tmp-17"
    unfinished.mkdir()
    (folder / "3.bak").mkdir()
    (folder / "notes").write_text("a user's own")
    assert params_in(workdir, "latest")[1] == [last]
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert_same_bits(checkpoints.restore(blank_state()), state_of(last))
    moved = f"step {lost} is damaged (has no manifest.sha256); it has been moved to"
    assert moved in capsys.readouterr().err
    assert (workdir / "damaged" / str(lost) / "params").is_dir()
    assert not (folder / str(lost)).exists() and not unfinished.exists()
    assert (folder / "3.bak").is_dir() and (folder / "notes").exists()


def test_without_any_manifest_nothing_is_trained_or_moved(three, tmp_path):
    workdir = shutil.copytree(three, tmp_path / "w")
    for file in (workdir / "checkpoints").glob(f"*/{manifest.NAME}"):
        file.unlink()
    with Checkpoints(workdir, keep=3) as checkpoints:
        message = refused(checkpoints.restore, blank_state())
    assert f"no checkpoint in {workdir}/checkpoints has its {manifest.NAME}" in message
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"2", "3", "5"}
    # A single one may be the first save, killed: it is set aside, and training starts.
    for step in (2, 3):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    with Checkpoints(workdir, keep=3) as checkpoints:
        assert_same_bits(checkpoints.restore(blank_state()), blank_state())
    assert (workdir / "damaged" / "5" / "params").is_dir()


def test_the_state_before_a_step_is_a_sound_one(three, tmp_path, capsys):
    workdir = shutil.copytree(three, tmp_path / "w")
    assert_same_bits(restore_before(workdir, 5, blank_state()), state_of(3))
    flip_a_bit(workdir / "checkpoints" / "3" / "params" / "_METADATA")
    assert_same_bits(restore_before(workdir, 5, blank_state()), state_of(2))
    assert_same_bits(restore_before(workdir, 2, blank_state()), blank_state())
    assert "step 3 is damaged (params/_METADATA" in capsys.readouterr().err
    assert steps_in(workdir, keep=3) == [2, 3, 5]


@pytest.mark.parametrize("when", ["at once", "in the background"])
def test_a_save_that_fails_stops_all_of_several_processes(tmp_path, monkeypatch, when):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(2, state_of(2))
        checkpoints.wait()
        monkeypatch.setattr(processes, "joined", lambda: True)

        def fails(*_, **__):
            raise OSError(28, "No space left on device")

        if when == "at once":
            monkeypatch.setattr(checkpoints._manager, "save", fails)
        else:
            monkeypatch.setattr(manifest, "write", fails)
        with pytest.raises(UserError, match="of step 3 could not be saved: the disk is full"):
            checkpoints.save(3, state_of(3))
            checkpoints.wait()
        monkeypatch.undo()
    assert 3 not in steps_in(tmp_path)


def test_closing_does_not_hide_what_a_block_ends_with(tmp_path, monkeypatch, capsys):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", fails)
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(2, state_of(2))
        raise KeyboardInterrupt
    assert "step 2 could not be saved (the disk is full)" in capsys.readouterr().err
    with pytest.raises(UserError, match="the last"), Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(2, state_of(2))


def test_a_manifest_is_what_sha256sum_checks(three):
    folder = three / "checkpoints" / "5"
    if not shutil.which("sha256sum"):
        pytest.skip("there is no sha256sum here")
    done = subprocess.run(["sha256sum", "-c", manifest.NAME], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(files_of(three, 5)) - 1


@pytest.mark.parametrize("room_again", [True, False])
def test_a_full_disk_leaves_the_last_one_and_the_run(small_disk, capsys, room_again):
    checkpoints = Checkpoints(small_disk, keep=2)
    checkpoints.save(2, state_of(2))
    checkpoints.wait()
    filler = fill(small_disk)
    checkpoints.save(3, state_of(3))
    if not room_again:
        assert "the last checkpoint could not be saved" in refused(checkpoints.close)
        assert steps_in(small_disk) == [2]
        return
    checkpoints.wait()
    error = capsys.readouterr().err
    warning = r"step 3 could not be saved \(.*\); the last one is that of step 2"
    assert re.search(warning, error), error
    assert checkpoints.steps() == [2]
    filler.unlink()
    checkpoints.save(5, state_of(5))
    checkpoints.close()
    assert steps_in(small_disk) == [2, 5]
    assert_same_bits(params_in(small_disk, "latest")[0], state_of(5).params)
