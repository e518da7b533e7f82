"""The rooms of the package: which may import which, and how large a thing may grow."""

import ast
import re
from pathlib import Path

import pytest
from launching import ROOT

PACKAGE = ROOT / "transformer_jax"
GROUND = ("errors", "console", "storage")
# From the ground up. A room may import those of the floors below its own, and itself.
FLOORS = [
    ("functional",),
    GROUND,
    ("config",),
    ("model",),
    ("parallel",),
    ("workdir",),
    ("data",),
    ("evaluation",),
    ("inference",),
    ("training",),
    ("planning", "interop", "inside"),
    ("sweeps",),
    ("report", "cloud"),
    ("__init__",),  # the Python API
    ("modes",),
    ("__main__",),
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
LINES = {"function": 60, "class": 200, "file": 400}


def files():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(tree):
    """Every module of the package that a file imports, at any depth: "model.layers", …"""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if re.match(r"transformer_jax(\.|$)", name):
                yield name.partition(".")[2] or "__init__"


def violations(path, tree):
    room = room_of(path)
    for name in imported(tree):
        other = name.split(".")[0]
        if other not in FLOOR_OF:  # `from transformer_jax import __version__`
            other = "__init__"
        together = room in GROUND and other in GROUND
        below = FLOOR_OF[other] < FLOOR_OF[room]
        if other != room and not together and not below:
            yield f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.fast
def test_imports_run_downward():
    found = [v for path in files() for v in violations(path, ast.parse(path.read_text()))]
    assert not found, "\n".join(found)


@pytest.mark.fast
@pytest.mark.parametrize(
    "file, line, bad",
    [
        ("model/size.py", "from transformer_jax.training.step import create_state", True),
        ("model/size.py", "from transformer_jax.config.options import Config", False),
        ("model/size.py", "from transformer_jax import training", True),
        ("data/text.py", "def f():\n    import transformer_jax.inference.search", True),
        ("planning/plan.py", "from transformer_jax.interop import marian", True),
        ("functional/masks.py", "from transformer_jax.errors import UserError", True),
        ("functional/masks.py", "from transformer_jax.functional import layers", False),
        ("training/run.py", "import transformer_jax as tj", True),
    ],
)
def test_an_arrow_up_is_seen(file, line, bad):
    assert bool(list(violations(PACKAGE / file, ast.parse(line)))) == bad


@pytest.mark.fast
def test_functional_needs_jax_alone():
    for path in (PACKAGE / "functional").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in ("jax", "transformer_jax", *STANDARD), (path, name)


STANDARD = ("collections", "functools", "math", "typing", "dataclasses")


@pytest.mark.fast
def test_every_room_states_its_purpose():
    rooms = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert len({room_of(path) for path in rooms}) <= 16
    for path in rooms:
        tree = ast.parse(path.read_text())
        doc = ast.get_docstring(tree) or ""
        assert doc.endswith("."), f"{path} does not state the purpose of the room"
        assert len(tree.body) == 1 or room_of(path) == "functional", f"{path} is more than that"


@pytest.mark.fast
def test_nothing_grows_without_end():
    too_long = []
    for path in files():
        text = path.read_text()
        where = path.relative_to(PACKAGE)
        if text.count("\n") > LINES["file"]:
            too_long.append(f"{where}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            kind = {"FunctionDef": "function", "ClassDef": "class"}.get(type(node).__name__)
            if kind and node.end_lineno - node.lineno + 1 > LINES[kind]:
                length = node.end_lineno - node.lineno + 1
                too_long.append(f"{where}: {node.name} has {length} lines")
    assert not too_long, "\n".join(too_long)


@pytest.mark.fast
def test_the_launcher_is_small():
    assert Path(ROOT / "launch.py").read_text().count("\n") <= 40
