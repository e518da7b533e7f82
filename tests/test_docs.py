"""The documents name files that exist."""

import re

import pytest
from launching import ROOT

import transformer_jax as tj

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|experiments|benchmarks|notebooks|docs)/[\w/.]*\w)`?", text)
    rooms = "|".join(path.name for path in (ROOT / "transformer_jax").iterdir() if path.is_dir())
    inside = re.findall(rf"`((?:transformer_jax/)?(?:{rooms})/[a-z_]+\.py)`", text)
    for name in named:
        assert (ROOT / name).exists(), name
    for name in inside:
        assert (ROOT / "transformer_jax" / name.removeprefix("transformer_jax/")).exists(), name
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.fast
def test_the_citation_names_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {tj.__version__}\n" in citation


@pytest.mark.fast
def test_the_readme_is_short():
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 180
