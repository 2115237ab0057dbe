"What the Tab key offers: by the words before it, in a real bash, without anything heavy; and what it leaves to files."
import os
import shutil
import subprocess
import sys
from configparser import ConfigParser

import pytest
from conftest import ROOT

from grok_nb import studies
from grok_nb.grammar.study import study
from grok_nb.runs import Run

pytest.importorskip("argcomplete")
SCRIPTS = ConfigParser(delimiters=["="])
SCRIPTS.read(ROOT/"settings.ini", encoding="utf-8")
NAMES = dict(script.split("=") for script in SCRIPTS["DEFAULT"]["console_scripts"].split())
HEAVY = "torch transformers pandas matplotlib datasets pyarrow"
CODE = f"""
import os, sys, importlib
name = sys.argv[0] = sys.argv[1]; where = sys.argv[2]; del sys.argv[1:]
end = os._exit
def exit(status): print("loaded:", *sorted({{*{HEAVY.split()}}} & {{*sys.modules}})); sys.stdout.flush(); end(status)
os._exit = exit
getattr(importlib.import_module(where), name)()
"""


@pytest.fixture
def root(tmp_path):
    "Two runs and a sweep."
    for seed in (0, 1): Run.create(study.config("demo", seed=seed), tmp_path/"runs")
    (tmp_path/"runs"/"sweeps"/"mine").mkdir(parents=True)
    (tmp_path/"runs"/"sweeps"/"mine"/"sweep.json").write_text("{}")
    return tmp_path/"runs"


def tab(line, root, name=None):
    "What is offered at the end of a line, and what was loaded for it."
    name, said = name or line.split()[0], root/"said"
    env = os.environ | dict(_ARGCOMPLETE="1", COMP_LINE=line, COMP_POINT=str(len(line.encode())), _ARGCOMPLETE_IFS="\n", _ARGCOMPLETE_STDOUT_FILENAME=str(said),
                            GROK_NB_RUNS=str(root), PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    done = subprocess.run([sys.executable, "-c", CODE, name, NAMES[name].split(":")[0]], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout == "loaded:\n", done.stdout
    return [word.rstrip() for word in said.read_text().split("\n")]


@pytest.mark.parametrize("line, offered", [
    ("grok_nb_train ", [*studies]), ("grok_nb_train mod", ["modular"]), ("grok_nb_train grammar --preset ", [*study.presets]),
    ("grok_nb_train --corpus a.txt --preset ", [*studies["corpus"].presets]), ("grok_nb_sweep modular --preset ", [*studies["modular"].presets | studies["modular"].grids]),
    ("grok_nb_train grammar --set optim", ["optimizer=adamw", "optimizer=muon"]), ("grok_nb_train grammar --set steps=3 plan", ["planted="]),
    ("grok_nb_runs --by ", ["newest", "name"]), ("grok_nb_measure x --spacing l", ["linear", "log"]), ("grok_nb_evidence gr", ["grammar"]),
    ("grok_nb_train --device ", ["cpu", "cuda", "mps"]), ("grok_nb_push x --pri", ["--private"]), ("grok_nb_measure x --max", ["--max-disk"]),
    ("grok_nb_claims --js", ["--json"]), ("grok_nb_train --pdb", [""]), ("grok_nb_train nothing --preset ", [""])])
def test_what_is_offered(root, line, offered):
    assert sorted(tab(line, root)) == sorted(offered)


def test_runs_are_offered_by_name(root, tmp_path):
    names = [p.parent.name for p in root.glob("*/config.json")]
    assert len(names) == 2
    for line in ("grok_nb_prune ", "grok_nb_push ", "grok_nb_runs --tree ", "grok_nb_train --config ", "grok_nb_measure "):
        assert sorted(tab(line, root)) == sorted([*names, "mine"]), line
    assert tab(f"grok_nb_report --runs {tmp_path/'none'} ", root) == [""]
    assert tab("grok_nb_prune grammar-", root) == tab(f"grok_nb_prune --runs {root} gr", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_answers_and_offers_its_options(root, name):
    offered = tab(f"{name} --", root)
    assert "--help" in offered and not {"--pdb", "--xtra"} & {*offered} and not [o for o in offered if "_" in o]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_in_bash(root, tmp_path):
    "The line that the page says, in a bash of its own: the commands are completed by their own answers, and other words by files."
    (tmp_path/"bin").mkdir()
    for name in ("grok_nb_train", "grok_nb_completion"):
        (tmp_path/"bin"/name).write_text(f"#!{sys.executable}\nfrom {NAMES[name].split(':')[0]} import {name}\n{name}()\n")
        (tmp_path/"bin"/name).chmod(0o755)
    ask = """grok_nb_completion > rc; source ./rc; complete -p grok_nb_train
    COMP_LINE="grok_nb_train grammar --preset sm"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; _python_argcomplete grok_nb_train; echo "${COMPREPLY[@]}" """
    env = os.environ | dict(PATH=f"{tmp_path/'bin'}:{os.environ['PATH']}", GROK_NB_RUNS=str(root), PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    done = subprocess.run(["bash", "--norc", "-c", ask], cwd=tmp_path, env=env, capture_output=True, text=True)
    rule, offered = done.stdout.splitlines()
    assert "-F _python_argcomplete grok_nb_train" in rule and "-o default" in rule and offered.strip() == "smoke", done
