"""The list of a checkpoint's files against the files: whatever either of them holds."""

import hashlib
import inspect
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transformer_jax.workdir import manifest

FILES = {"top": b"1", "params/a": b"22", "params/d/b": b"", "optimizer/c": b"333", "z\u2028z": b"4"}


def written(folder):
    """A folder with FILES and their manifest."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    manifest.write(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return written(tmp_path / "folder")


def list_too(folder, name, content=b""):
    with (folder / manifest.NAME).open("a") as file:
        file.write(f"{hashlib.sha256(content).hexdigest()}  {name}\n")


def test_a_manifest_cut_anywhere_is_damage(folder):
    assert manifest.damaged(folder) == manifest.damaged(folder, below="params/") == []
    path = folder / manifest.NAME
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    assert len(lines) == len(FILES)
    for size in range(len(content) - 1):
        path.write_bytes(content[:size])
        assert manifest.damaged(folder), size
    path.write_bytes(b"".join(lines[:3]))
    lacks = [f"{name} is not in the manifest" for name in ("top", "'z\\u2028z'")]
    assert manifest.damaged(folder) == lacks
    assert manifest.damaged(folder, below="params/") == []
    path.write_bytes(lines[0] + lines[3])
    lacks = [f"{name} is not in the manifest" for name in ("params/a", "params/d/b")]
    assert manifest.damaged(folder, below="params/") == lacks


def test_files_added_lost_and_altered(folder):
    for name in (".DS_Store", "params/.nfs0123", "manifest.sha256.tmp"):  # file managers' own
        (folder / name).write_bytes(b"x")
    assert manifest.damaged(folder) == []
    (folder / "params/d/new").write_bytes(b"")
    (folder / "params/manifest.sha256").write_bytes(b"")  # that is not the manifest
    (folder / "top").write_bytes(b"2")
    (folder / "optimizer/c").unlink()
    list_too(folder, "params/.listed")
    assert manifest.damaged(folder) == [
        "optimizer/c is missing",
        "params/.listed is missing",
        "params/d/new is not in the manifest",
        "params/manifest.sha256 is not in the manifest",
        "top has been altered",
    ]


def test_a_manifest_without_anything_or_that_cannot_be_read_is_damage(folder):
    assert manifest.damaged(folder, below="other/") == ["has no other/"]
    (folder / "other").mkdir()
    (folder / "other/.DS_Store").write_bytes(b"x")
    assert manifest.damaged(folder, below="other/") == ["has no other/"]
    list_too(folder, "other/a")
    assert manifest.damaged(folder, below="other/") == ["other/a is missing"]
    path = folder / manifest.NAME
    path.unlink()
    assert manifest.damaged(folder) == ["it cannot be read (No such file or directory)"]
    path.mkdir()
    assert manifest.damaged(folder) == ["it cannot be read (Is a directory)"]


@pytest.mark.parametrize("name", ["../outside", "params/../top", "./top", "/dev/zero", "params"])
def test_what_is_not_there_is_not_opened(folder, name, monkeypatch):
    """Even if such a file exists, and has the digest that is listed."""
    (folder.parent / "outside").write_bytes(b"x")
    list_too(folder, name, b"x")
    list_too(folder, str(folder.parent / "outside"), b"x")
    digest, opened = manifest.sha256, []
    monkeypatch.setattr(manifest, "sha256", lambda path: opened.append(path) or digest(path))
    assert f"{name} is missing" in manifest.damaged(folder)
    assert f"{folder.parent / 'outside'} is missing" in manifest.damaged(folder)
    assert set(opened) == {folder / name for name in FILES}


def test_folders_of_any_depth(folder):
    """There are more levels than calls within each other that Python allows."""
    deep = folder / "/".join("d" * 200)
    deep.mkdir(parents=True)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert manifest.damaged(folder) == []
    finally:
        sys.setrecursionlimit(limit)


LINE = st.tuples(
    st.text() | st.just(hashlib.sha256(b"22").hexdigest()),
    st.text() | st.sampled_from([*FILES, "../x", "/dev/zero", "params/", "\0"]),
)
LINES = st.lists(LINE.map("  ".join)).map("\n".join).map(lambda x: x.encode("utf-8", "replace"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return written(tmp_path_factory.mktemp("kept"))


@given(content=st.binary() | LINES)
@example(content=b"")
@example(content=b"\n")
@example(content=b"  ")
@example(content=b"x  \x1b[2J")
def test_any_bytes_as_manifest_give_reasons(kept, content):
    """Printable ones, and one at least: none of these lists every file."""
    (kept / manifest.NAME).write_bytes(content)
    reasons = manifest.damaged(kept)
    assert reasons and all(reason.isprintable() for reason in reasons)
