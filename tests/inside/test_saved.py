"""The saved page of the documents."""

import base64
import gzip
import json
import re

import pytest
from launching import ROOT

from transformer_jax.inside import assets

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
