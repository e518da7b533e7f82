"""Where the tests' sweeps run."""

import pytest
from launching import ROOT
from sweeping import LAUNCHER, STAND_IN


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    return tmp_path
