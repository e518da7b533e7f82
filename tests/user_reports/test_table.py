"""The table of what users reported has a row for each test of this folder."""

import re
from pathlib import Path

import pytest
from table import KINDS

FILES = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]


@pytest.mark.fast
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_every_test_is_in_the_table(file):
    names = re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    patterns = [kind.pattern for kind in KINDS if kind.file == file.name]
    missing = [n for n in names if not any(re.search(pattern, n) for pattern in patterns)]
    assert not missing
