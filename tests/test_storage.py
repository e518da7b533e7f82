"""Files in a bucket: a run there leaves what a run in a folder does; what fails is one line."""

import gzip
import itertools
import os
import sys
import threading

import fsspec
import jax.numpy as jnp
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from launching import evaluate, json_lines, refused, tiny_config, translate
from orbax.checkpoint._src.path import gcs_utils
from tensorboardX import record_writer
from toy import assert_same_bits

from transformer_jax import storage
from transformer_jax.config.files import load_config
from transformer_jax.config.options import Config
from transformer_jax.data import corpora
from transformer_jax.data import text as data_text
from transformer_jax.data import tokens as data_tokens
from transformer_jax.data.small_world.grammar import pairs
from transformer_jax.data.tokenizer import Tokenizers
from transformer_jax.data.tokens import content_hash, tokenize_pairs
from transformer_jax.modes import command_line
from transformer_jax.modes.output import Output
from transformer_jax.storage import is_remote, write_whole
from transformer_jax.training.run import train
from transformer_jax.training.step import TrainState
from transformer_jax.workdir import lock, tracking
from transformer_jax.workdir.checkpoints import Checkpoints
from transformer_jax.workdir.tracking import Tracker


class Buckets(LocalFileSystem):
    """A stand-in for gcsfs: "gs://a/b" is the file ROOT/a/b, under the rules of an object store."""

    protocol = ("gs", "gcs")
    cachable = False
    root = ""
    written = None

    def __init__(self, **options):
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(os.fspath(path).replace("gs://", cls.root + "/"))

    def _open(self, path, mode="rb", **options):
        assert "a" not in mode, "nothing can be appended to an object"
        if "w" in mode:
            bucket = os.path.relpath(path, self.root).split("/")[0]
            if not os.path.isdir(os.path.join(self.root, bucket)):
                raise FileNotFoundError(f"https://storage/b/{bucket}")
            self.written.append(os.path.basename(path))
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return super()._open(path, mode, **options)

    def glob(self, path, **options):
        return [os.path.relpath(found, self.root) for found in super().glob(path, **options)]

    def mkdir(self, path, **options):
        """There are no folders."""

    makedirs = mkdir

    def mv(self, *paths, **options):
        raise AssertionError("a rename copies the whole object")


class EventFile:
    """What tensorboardX writes by Google's library, whole each time."""

    def __init__(self, path):
        self._path, self._content = path, b""

    def write(self, content):
        self._content += content

    def flush(self):
        epath.Path(self._path).write_bytes(self._content)

    close = flush

    @staticmethod
    def directory_check(path):
        pass


EventFile.open = EventFile


def set_up(patch, root):
    (root / "bucket").mkdir()
    patch.setattr(Buckets, "root", str(root))
    patch.setattr(Buckets, "written", [])
    for name in Buckets.protocol:
        patch.setitem(_registry, name, Buckets)
    # Checkpoints' arrays are written by tensorstore, and not through epath.
    kvstore = lambda path: {"driver": "file", "path": Buckets._strip_protocol(path)}  # noqa: E731
    patch.setattr(gcs_utils, "get_kvstore_for_gcs", kvstore)
    patch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False)
    patch.setitem(record_writer.REGISTERED_FACTORIES, "gs", EventFile)
    backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """The folder that gs://bucket is."""
    set_up(monkeypatch, tmp_path)
    yield tmp_path / "bucket"
    backend.fsspec_backend._get_filesystem.cache_clear()


# ------------------------------------------------------------------------------------------- paths
@pytest.mark.parametrize(
    ("name", "folder", "whole"),
    [
        ("a.en", "/text", "/text/a.en"),
        ("a.en", "text", f"{os.getcwd()}/text/a.en"),
        ("a.en", "gs://bucket/text", "gs://bucket/text/a.en"),
        ("gs://bucket/a.en", "gs://bucket/text", "gs://bucket/a.en"),
        ("/a.en", "gs://bucket/text", "/a.en"),
    ],
)
def test_a_name_is_a_path_here_or_in_a_bucket(bucket, name, folder, whole):
    path = storage.path(name, folder=folder)
    assert str(path) == whole
    assert is_remote(path) == whole.startswith("gs://")
    assert is_remote(path.parent / "other") == is_remote(path)


def without_gcsfs(monkeypatch):
    for name in Buckets.protocol:
        monkeypatch.delitem(_registry, name, raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)


def test_listings_are_not_cached_and_missing_permission_is_an_error_at_once(bucket, monkeypatch):
    """Or what one process writes would not be seen by another: gcsfs keeps listings for ever."""
    storage.path("gs://bucket")
    assert fsspec.config.apply_config(Buckets, {})["use_listings_cache"] is False

    def exists(self, path, **options):
        raise RuntimeError("Anonymous caller does not have\nstorage.objects.get access, 401")

    monkeypatch.setattr(Buckets, "exists", exists)  # gcsfs's HttpError is no OSError either
    reason = "Anonymous caller does not have storage.objects.get access, 401"
    assert refused(storage.path, "gs://bucket/x") == f"gs://bucket/x cannot be reached: {reason}"


def test_gcsfs_is_needed_here_but_not_for_what_runs_elsewhere(monkeypatch, tmp_path):
    without_gcsfs(monkeypatch)
    needed = "gs://bucket/x needs gcsfs: pip install 'transformer_jax[gcs]' "
    assert refused(storage.path, "gs://bucket/x").startswith(needed)
    default = tmp_path / "default.py"
    default.write_text("from transformer_jax.config.options import Config\nget_config = Config\n")
    line = ["launch.py", "--workdir=gs://bucket/x"]
    assert refused(command_line.find_config, line, default).startswith("gs://bucket/x")
    for target in (["--target=tpu-vm"], ["--target", "tpu-vm"]):
        assert command_line.find_config([*line, *target], default)[0] == Config()


@pytest.mark.parametrize("kind", ["a link", "a loop of links", "a pipe"])
def test_a_workdir_with_anything_but_files_and_folders_is_refused(tmp_path, kind):
    run = tmp_path / "run"
    folder = run / "checkpoints" / "4" / "params"
    folder.mkdir(parents=True)
    (folder / "array").write_text("x")
    storage.check_workdir(run)
    odd = folder / "odd"
    if kind == "a pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(folder / "array" if kind == "a link" else run)
    message = refused(storage.check_workdir, run)
    assert message.startswith(f"{odd} is neither a file nor a folder of its own")
    odd.unlink()
    (tmp_path / "link").symlink_to(run)
    storage.check_workdir(tmp_path / "link")


# ------------------------------------------------------------------------------------- whole files
def test_a_file_in_a_bucket_is_written_once_and_a_missing_one_names_the_nearest(bucket):
    write_whole(storage.path("gs://bucket/a/b.txt"), "你好\n")
    assert (bucket / "a" / "b.txt").read_text(encoding="utf-8") == "你好\n"
    assert Buckets.written == ["b.txt"]
    (bucket / "pairs.tsv").write_text("a\tb\n")
    assert data_text.read_lines(storage.path("gs://bucket/pairs.tsv")) == ["a\tb"]
    message = refused(data_text.read_lines, storage.path("gs://bucket/pear.tsv"))
    assert message.startswith("gs://bucket/pear.tsv does not exist (did you mean p")


def test_a_bucket_that_is_not_there_is_named_and_never_made(bucket, monkeypatch):
    """gcsfs would make it, with a mistyped name."""
    message = refused(write_whole, storage.path("gs://other/x"), "")
    assert message == "cannot write gs://other/x: there is no such bucket"
    monkeypatch.setattr(Buckets, "makedirs", None)
    storage.make_folder(storage.path("gs://other/x"))
    folder = bucket / "a" / "b"
    for _ in range(2):
        storage.make_folder(folder)
    (folder / "file").write_text("")
    message = refused(storage.make_folder, folder / "file" / "c")
    assert message == f"cannot write to {folder}/file/c: Not a directory"


# ----------------------------------------------------------------------------------------- metrics
METRICS = {"loss": 2.5, "source_tokens": 30.0, "target_tokens": 34.0}


def test_rows_are_written_once_a_minute_and_when_flushed(bucket, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    workdir, path = storage.path("gs://bucket/run"), bucket / "run/metrics.jsonl"
    options = {"num_steps": 19, "log_every": 1, "tensorboard": False}
    tracker = Tracker(workdir, first_step=0, **options)
    for step in range(1, 14):
        now[0] += 7
        tracker.train_step(step, METRICS)
    assert [row["step"] for row in json_lines(path)] == [*range(1, 10)], "63 seconds"
    assert len(Buckets.written) == 1
    tracker.flush()
    assert [row["step"] for row in json_lines(path)] == [*range(1, 14)]
    tracker.close()
    tracker = Tracker(workdir, first_step=11, **options)
    tracker.train_step(12, METRICS)
    tracker.close()
    assert [row["step"] for row in json_lines(path)] == [*range(1, 13)]


# ------------------------------------------------------------------------------------- a whole run
def config(text):
    files = {"train": "train.tsv", "valid": "valid.tsv", "test": "test.tsv.gz"}
    options = {"corpus": "files", "path": str(text), "train_size": 0} | files
    made = tiny_config({f"data.{name}": value for name, value in options.items()})
    made.data.vocab_size, made.train.tensorboard = 601, True
    made.train.steps, made.train.checkpoint_every, made.train.evaluate_every = 2, 1, 2
    made.train.average_checkpoints = 1  # so that one is deleted, too
    return made


def run(place):
    """Trains, resumes, evaluates and translates in the folder `place`, which has the text, too."""
    workdir = storage.path(f"{place}/run")
    c = config(f"{place}/text")
    train(c, workdir)
    c.train.steps, c.train.evaluate_every = 4, 0
    train(c, workdir)
    evaluate(c, workdir, split="test", weights="average")
    files = [f"{place}/{name}" for name in ("text/input", "new/output")]
    translate(c, workdir, *files, weights="best", n_best=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run in a folder and in a bucket: both as folders."""
    root = tmp_path_factory.mktemp("buckets")
    with pytest.MonkeyPatch.context() as patch:
        set_up(patch, root)
        local, bucket = root / "local", root / "bucket"
        for place in (local, bucket):
            (place / "text").mkdir(parents=True)
            for name, size in (("train", 97), ("valid", 5), ("test", 7)):
                text = "".join(f"{zh}\t{en}\n" for zh, en in pairs(name, size=size)).encode()
                (place / "text" / f"{name}.tsv").write_bytes(text)
                (place / "text" / f"{name}.tsv.gz").write_bytes(gzip.compress(text))
            (place / "text" / "input").write_text("我有一只猫\n\n他是老师。\n", encoding="utf-8")
        (local / "new").mkdir()  # in a bucket it comes with the file
        run(local)
        encode = data_tokens._encode
        patch.setattr(
            data_tokens, "_encode", lambda *a: Buckets.written.append("encode") or encode(*a)
        )
        run("gs://bucket")
        yield local, bucket, Buckets.written
    backend.fsspec_backend._get_filesystem.cache_clear()


def files(place):
    """Names relative to `place`, without orbax's random ones and its mark that all is written."""
    names = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    random = ("ocdbt.process_0", "d")
    return sorted(
        str(name).split(".tfevents")[0]
        for name in names
        if name.name != "commit_success.txt" and not set(name.parts).intersection(random)
    )


def test_a_bucket_has_in_the_end_the_files_and_metrics_that_a_folder_has(runs):
    local, bucket, written = runs
    assert files(bucket) == files(local)
    assert "run/checkpoints/4/params/manifest.ocdbt" in files(bucket)
    assert files(bucket).count("run/tensorboard/events.out") == 2
    same = ["new/output", "run/tokenizer.model", "run/training_data.sha256"]
    same += [f"run/evaluation/test/{name}" for name in ("scores.json", "translations.jsonl")]
    for name in same:
        assert (bucket / name).read_bytes() == (local / name).read_bytes(), name
    assert (bucket / "new/output").read_text(encoding="utf-8").count("\n") == 3
    ours, theirs = (load_config(place / "run/config.json") for place in (local, bucket))
    ours.data.path = "gs://bucket/text"
    assert ours == theirs
    # A run that is killed then would resume without the metrics of the checkpoint's steps.
    assert written.index("metrics.jsonl") < written.index("commit_success.txt")
    rows = [json_lines(place / "run/metrics.jsonl") for place in runs[:2]]
    for row in itertools.chain(*rows):
        del row["time"]
        row.get("train", {}).pop("tokens_per_second", None)
    assert [row["step"] for row in rows[1]] == [1, 2, 2, 3, 4]
    assert rows[0] == rows[1]


def test_tokens_are_made_once_and_found_again(runs, monkeypatch):
    _, bucket, written = runs
    assert written.count("encode") == 2, "training and validation"
    assert written.count("source.npy") == 2
    text = corpora.load_split(config(bucket / "text").data, "train").pairs
    tokenizers = Tokenizers.load(bucket / "run")
    tokens = tokenize_pairs(text, tokenizers)

    def cached():
        return tokenize_pairs(text, tokenizers, storage.path("gs://bucket/run/tokens"))

    with monkeypatch.context() as patch:
        patch.setattr(data_tokens, "_encode", None)
        found = cached()
    assert_same_bits(vars(found), vars(tokens))
    # A run that ended while it wrote them leaves some of the files.
    (bucket / "run/tokens" / content_hash(text, tokenizers) / "target_offsets.npy").unlink()
    assert_same_bits(vars(cached()), vars(tokens))


def test_a_damaged_checkpoint_in_a_bucket(bucket, capsys):
    state = TrainState(jnp.ones((), jnp.int32), {"x": jnp.arange(7.0)}, (), None)
    workdir = storage.path("gs://bucket/run")
    with Checkpoints(workdir, keep=2) as checkpoints:
        for step in (2, 3):
            checkpoints.save(step, state.replace(params={"x": step * state.params["x"]}))
    file = next((bucket / "run/checkpoints/3/params").rglob("d/*"))
    file.write_bytes(file.read_bytes()[:-1])
    with Checkpoints(workdir, keep=2) as checkpoints:
        restored = checkpoints.restore(state)
    assert restored.params["x"].tolist() == [2.0 * x for x in range(7)]
    assert "step 3 is damaged" in capsys.readouterr().err
    assert [path.name for path in (bucket / "run/checkpoints").iterdir()] == ["2"]


def test_a_lock_in_a_bucket(bucket):
    workdir = storage.path("gs://bucket/run")
    with lock.held(workdir):
        assert f"in use by process {os.getpid()} on " in refused(lock.held(workdir).__enter__)
    assert not list((bucket / "run").iterdir())


# ------------------------------------------------------------------------------------- write_whole
@pytest.mark.fast
def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "out.de.txt"
    for text in ("猫\n", "狗\r\n"):
        write_whole(path, text)
        assert path.read_bytes() == text.encode()

    def no_room(file):
        assert [p.name for p in tmp_path.iterdir() if p != path] == ["out.de.txt.tmp"]
        raise OSError(28, "No space left on device")

    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "a" * 9999 + "\ud800")
    monkeypatch.setattr(os, "fsync", no_room)
    message = refused(write_whole, path, "after")
    assert message == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == "狗\r\n".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/such/folder/out.txt", "file/out.txt", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    assert f"cannot write {tmp_path / name}" in refused(write_whole, tmp_path / name, "text")


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


def test_an_output_in_a_bucket_is_written_at_the_end_or_not_at_all(bucket):
    with Output("gs://bucket/out.gz") as output:
        output.write("eins\n")
        assert [path.name for path in bucket.iterdir()] == ["out.gz.part"]
        output.write("zwei\n")
    assert [path.name for path in bucket.iterdir()] == ["out.gz"]
    assert gzip.decompress((bucket / "out.gz").read_bytes()) == b"eins\nzwei\n"
    with pytest.raises(RuntimeError), Output("gs://bucket/other") as output:
        output.write("eins\n")
        raise RuntimeError
    assert [path.name for path in bucket.iterdir()] == ["out.gz"]
