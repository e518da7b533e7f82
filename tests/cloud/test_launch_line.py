"""What a launch line becomes elsewhere, which files are copied, and which flags go together."""

import os
import subprocess
from pathlib import Path

import fork_server
import pytest
from launching import ROOT, refusal

from transformer_jax.cloud import checkout, launch_line
from transformer_jax.config.options import DataConfig
from transformer_jax.errors import UserError

OWN = {"target": False, "nodes": False, "spot": True}
TPU = [
    "--target=tpu-vm",
    "--zone=us-west4-a",
    "--accelerator=v4-8",
    "--workdir=gs://b/x",
]


@pytest.fixture
def folder(tmp_path):
    """A checkout with a changed file, a new one, an ignored one and a deleted one."""
    root = tmp_path / "checkout"
    (root / "experiments").mkdir(parents=True)
    for name in ("changed.py", "deleted.py", "experiments/a.py"):
        (root / name).write_text("before")
    (root / ".gitignore").write_text("runs/\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", "--all"], cwd=root, check=True)
    (root / "changed.py").write_text("after")
    (root / "experiments" / "new 'é'.py").write_text("new")
    (root / "runs").mkdir()
    (root / "runs" / "ignored").write_text("")
    (root / "deleted.py").unlink()
    return root


# -------------------------------------------------------------------------------- the arguments
def test_the_flags_of_a_target_are_removed_and_the_others_stay_in_order():
    own = ["--target=slurm", "-nodes=2", "--nospot", "--spot"]
    rest = ["--config=a.py", "--config.name=--target=x", "--no_such=1", "--nodes_more=1"]
    assert launch_line.without([rest[0], *own, *rest[1:]], OWN) == rest


def test_a_flag_without_an_equals_sign_and_a_line_break_are_refused():
    with pytest.raises(UserError, match="write --nodes=…, with an equals sign"):
        launch_line.without(["--nodes", "2"], OWN)
    with pytest.raises(UserError, match="has a character"):
        launch_line.without(["--config.demo=a\nb"], OWN)


@pytest.mark.parametrize(
    ("experiment", "name"), [("WMT14_base", "wmt14-base"), ("_a b.", "a-b"), ("我", "run")]
)
def test_the_default_name_is_the_experiments(experiment, name):
    assert launch_line.default_name(experiment) == name
    launch_line.check_name(name)


@pytest.mark.parametrize("workdir", [None, "", "runs/x", "/gs://b", "s3://b/x"])
def test_a_workdir_that_goes_with_the_machine_is_refused(workdir):
    with pytest.raises(UserError, match="needs --workdir=gs://BUCKET/…, not"):
        launch_line.check_workdir(workdir, "tpu-vm")
    launch_line.check_workdir("gs://b/x", "tpu-vm")


@pytest.mark.parametrize(
    ("accelerator", "version"),
    [
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v5litepod-4", "v2-alpha-tpuv5-lite"),
        ("v4-32", "tpu-ubuntu2204-base"),
        *((unknown, None) for unknown in ("v5e-16", "v6e", "v6e-", "A100:8", "")),
    ],
)
def test_the_software_follows_the_accelerator(accelerator, version):
    if version:
        assert launch_line.runtime_version(accelerator) == version
        return
    with pytest.raises(UserError, match="is none of v4-N, v5litepod-N, v5p-N, v6e-N"):
        launch_line.runtime_version(accelerator)


# --------------------------------------------------------------------------------- the checkout
def test_the_checkouts_files_are_those_that_git_would_commit(folder):
    names = {".gitignore", "changed.py", "experiments/a.py", "experiments/new 'é'.py"}
    assert checkout.files(folder) == names


def test_a_folder_without_git_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"is not a git checkout, .*: clone the project"):
        checkout.files(tmp_path)


def test_the_experiment_is_named_as_from_the_checkout(folder, monkeypatch):
    def relative(name):
        return checkout.relative(Path(name), folder, checkout.files(folder))

    monkeypatch.chdir(folder / "experiments")
    assert relative("a.py:x:y") == "experiments/a.py:x:y"
    for lost in ("deleted.py", "../runs/ignored", "../../other.py"):
        with pytest.raises(UserError, match="is not in the checkout"):
            relative(lost)


def test_text_outside_of_the_checkout_is_refused(folder):
    known = checkout.files(folder)

    def check(**options):
        checkout.check_data(DataConfig(**{"corpus": "files"} | options), known)

    check(train="changed.py,./experiments/a.py")
    check(path="experiments", train="a.py")
    check(path="gs://b/text", train="a.en,a.de")
    check(corpus="tfds:wmt14_translate/de-en", train="train")
    for lost in ({"train": "a.py"}, {"train": "changed.py", "test": "/etc/hosts"}):
        with pytest.raises(UserError, match="is not in the checkout"):
            check(**lost)
    with pytest.raises(UserError, match=r"/data/changed.py is not in the checkout"):
        check(path="/data", train="changed.py")


# ------------------------------------------------------------------------------ through launch.py
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--zone=z"], "--zone goes with --target=tpu-vm or skypilot"),
        (["--output=z"], "--output goes with --target=tpu-vm or slurm or skypilot"),
        (["--target=slurm", "--keep"], "--keep goes with --target=tpu-vm, not with --target=slurm"),
        ([*TPU, "--nodes=2"], "--nodes goes with --target=slurm, not with --target=tpu-vm"),
        ([*TPU, "--output=no/x"], f"cannot write {ROOT}/no/x"),
        ([*TPU, "--mode=translate"], "--target belongs to --mode=train, evaluate, not translate"),
        ([*TPU, "--workdir=runs/x"], "needs --workdir=gs://BUCKET/…, not "),
        ([*TPU, "--config.model.num_heads=7"], "model.d_model=128 is not divisible"),
        ([*TPU, "--zone="], "needs --zone=…"),
        ([*TPU, "--accelerator=v5e-8"], "is none of v4-N, v5litepod-N"),
        ([*TPU, "--accelerator=v5litepod-9"], "--accelerator=v5litepod-9 is none of v4-{8,16,"),
        ([*TPU, "--accelerator=v5litepod-9", "--runtime_version=z"], "is none of v4-{8"),
        ([*TPU, "--accelerator=v5litepod-256"], "is not divisible by 256 devices"),
        ([*TPU, "--config.parallel.tensor=3"], "parallel.tensor=3 must multiply to 4, the number"),
        (["--target=skypilot", "--workdir=gs://b"], "needs --accelerator=…"),
    ],
)
def test_what_cannot_run_there_is_refused(given, message):
    assert message in refusal(*given)


@pytest.mark.parametrize(
    ("target", "submit", "line"),
    [
        ("tpu-vm", "bash", ".venv/bin/python launch.py {}\n"),
        ("skypilot", "sky jobs launch", "  .venv/bin/python launch.py {}\n"),
        ("slurm", "sbatch", "/launch.py {} &\n"),
    ],
)
def test_a_job_is_printed_or_written_and_has_the_runs_flags(tmp_path, target, submit, line):
    """From outside of the checkout, where the project's experiments are known by name."""
    given = ["--config=experiments/quickstart.py", "--workdir=gs://b/x", "--config.seed=3"]
    own = {"tpu-vm": TPU[1:3], "skypilot": TPU[2:3], "slurm": ["--nodes=2"]}[target]
    command = [ROOT / "launch.py", f"--target={target}", *own, *given]
    printed, written = (
        fork_server.run(*command, *output, environment=os.environ, cwd=tmp_path)
        for output in ([], ["--output=job"])
    )
    assert (printed.returncode, written.returncode, written.stdout) == (0, 0, ""), printed.stderr
    assert written.stderr == f"wrote {tmp_path}/job; submit it with: {submit} {tmp_path}/job\n"
    text = (tmp_path / "job").read_text()
    assert printed.stdout == text
    assert line.format(" ".join(given)) in text
    assert f"# {submit} THIS_FILE" in text
