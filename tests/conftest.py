"Fixtures that every test may ask for."
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

# A shell that starts a job in the background has it ignore Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
MADE = {".git", ".venv", "_docs", "_proc", "build", "dist", "runs", "__pycache__", ".pytest_cache", ".hypothesis", ".ipynb_checkpoints"}


def tracked_files():
    "The files of the repository, relative to its root; without git, everything that is not made by a tool."
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if git.returncode == 0 and git.stdout: names = [Path(name) for name in git.stdout.split("\0") if name]
    else: names = [p.relative_to(ROOT) for p in ROOT.rglob("*") if not MADE & set(p.relative_to(ROOT).parts)
                   and not any(part.endswith(".egg-info") for part in p.parts) and (p.is_file() or p.is_symlink())]
    return sorted(p for p in names if (ROOT/p).is_symlink() or (ROOT/p).is_file())


@pytest.fixture
def checkout(tmp_path):
    "A copy of the repository's files, alone in a folder."
    root = tmp_path/"checkout"
    for p in tracked_files():
        (root/p).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/p, root/p, follow_symlinks=False)
    return root


@pytest.fixture(scope="session", autouse=True)
def no_runs_in_the_repository(tmp_path_factory):
    "What a test writes by accident lands in a temporary folder."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROK_NB_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


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
