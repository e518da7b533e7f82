"""The files of the page, and the saved page of the documents."""

import base64
import gzip
import json
import re
import shutil
import subprocess

import pytest
from launching import ROOT

from transformer_jax.inside import assets

PAGE = ROOT / "transformer_jax" / "inside" / "page"
SAVED = ROOT / "docs" / "inside" / "cat.html"


@pytest.mark.fast
def test_the_page_in_the_documents_is_made_of_the_present_files():
    """Else: launch.py --mode=inside --workdir=runs/quickstart --output=docs/inside/cat.html."""
    page = SAVED.read_text(encoding="utf-8")
    pattern = re.compile('(?<=id="saved">)[^<]+')
    answers = json.loads(gzip.decompress(base64.b64decode(pattern.search(page)[0])))
    made = assets.single_file(**answers)
    assert pattern.sub("", page) == pattern.sub("", made)  # what gzip writes depends on its version
    assert all(record["record"]["layers"] for record in answers["records"])
    assert SAVED.stat().st_size <= 5_000_000


@pytest.mark.fast
@pytest.mark.parametrize("file", sorted(PAGE.glob("*.js")), ids=lambda file: file.name)
def test_a_module_parses_and_never_writes_html(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?://(?!www\.w3)", text
    )
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    command = [node, "--input-type=module", "--check"]
    done = subprocess.run(command, input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
