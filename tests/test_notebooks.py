"""Every notebook runs from top to bottom, as a reader would run it."""

import nbformat
import pytest
from launching import ROOT, TINY
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(path, **parameters):
    """The outputs of a notebook as text, its cell of parameters replaced."""
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    # With the folder of the checkout as its own, as the notebook asks for.
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [out for c in notebook.cells for out in c.get("outputs", [])]
    return "\n".join(out.get("text") or out["data"]["text/plain"] for out in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_a_trained_model(path, trained):
    printed = run(path, WORKDIR=str(trained[0]), OVERRIDES={})
    assert "embedding" in printed and "nats" in printed, printed


@pytest.mark.slow
def test_the_quickstart_trains_when_there_is_no_workdir(tmp_path):
    workdir = tmp_path / "run"
    run(ROOT / "notebooks" / "quickstart.ipynb", WORKDIR=str(workdir), OVERRIDES=TINY)
    assert (workdir / "config.json").exists()


@pytest.mark.fast
def test_notebooks_are_kept_without_outputs():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs") and not cell.get("execution_count"), path
