"Fixtures that every test may ask for."
import os
from pathlib import Path

import pytest


@pytest.fixture
def runs_root(tmp_path, monkeypatch):
    "An empty folder that runs are written to, in this process and in those it starts."
    root = tmp_path/"runs"
    root.mkdir()
    monkeypatch.setenv("GROK_NB_RUNS", str(root))
    return root


@pytest.fixture(scope="session")
def data_dir():
    "The folder with real text and minimal pairs, named by `GROK_NB_DATA`."
    folder = os.environ.get("GROK_NB_DATA")
    if not folder: pytest.skip("needs real text: set GROK_NB_DATA to its folder")
    if not Path(folder).is_dir(): pytest.skip(f"needs real text: GROK_NB_DATA={folder} is not a folder")
    return Path(folder)
