"Other Pythons, and the oldest versions that are allowed: the quick tests of the core, each in an environment that make has made."
import os
import subprocess

import pytest
from conftest import ROOT

CORE = [f"tests/test_{name}.py" for name in "files streams probes claims lens architectures training_stop".split()]
PLACES = ".venv-oldest", ".venv-3.12", ".venv-3.13"


def test_make_knows_these_places(): assert all(place in (ROOT/"Makefile").read_text() for place in (PLACES[0], ".venv-3.%"))


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_the_core_works_elsewhere(place):
    python = ROOT/place/"bin"/"python"
    if not (ROOT/place/".installed").exists(): pytest.skip(f"there is no {place}: make {place}")
    left_out = ["--deselect", "tests/test_architectures.py::test_what_is_kept_adds_up_and_can_be_chosen[gemma2]"] if "oldest" in place else []
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *CORE, *left_out], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
