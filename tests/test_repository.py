"The repository itself: package, notebooks, README and packaging say the same thing."
import ast
import json
import os
import re
import shutil
import stat
import statistics
import subprocess
import sys
from configparser import ConfigParser
from itertools import groupby
from pathlib import Path

import pytest
from conftest import ROOT, tracked_files
from packaging.requirements import Requirement

LIGHT = """grok_nb grok_nb.runs grok_nb.corpus grok_nb.modular.tasks grok_nb.modular.study grok_nb.copying.language grok_nb.copying.study
grok_nb.grammar.language grok_nb.grammar.study grok_nb.markov.study grok_nb.commands grok_nb.completion grok_nb.convert grok_nb.gpu grok_nb.listing grok_nb.prune grok_nb.push grok_nb.see.formats grok_nb.__main__
grok_nb.docs.site grok_nb.docs.pages grok_nb.docs.processors""".split()
HEAVY = "torch pandas transformers matplotlib datasets".split()

FILES = tracked_files()
PAGES = [p for p in FILES if p.suffix == ".ipynb" and p.parts[0] == "nbs"]
MODULES = [p for p in FILES if p.suffix == ".py" and p.parts[0] == "grok_nb"]
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT/"settings.ini", encoding="utf-8")
CFG = SETTINGS["DEFAULT"]


def read(path): return (ROOT/path).read_text(encoding="utf-8")
def cells(path): return json.loads(read(path))["cells"]
def source(cell): return "".join(cell["source"])


def nbdev(command, root):
    "Run an nbdev command as `make` does: IN_TEST would turn the export into nothing."
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    done = subprocess.run([sys.executable, "-c", command], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def contents(folder):
    "Relative path → bytes of every file below `folder`."
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts}


def differing(a, b): return sorted(name for name in a.keys()|b.keys() if a.get(name) != b.get(name))


def test_package_is_a_fresh_export(checkout):
    before = contents(checkout/"grok_nb")
    before = {name: text for name, text in before.items() if not re.fullmatch(r"frozen_claims.json|evidence_\w+.parquet", name)} # data
    shutil.rmtree(checkout/"grok_nb")
    nbdev("from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()", checkout)
    assert not (stale := differing(before, contents(checkout/"grok_nb"))), f"run nbdev_export and commit: {stale}"


def test_notebooks_are_clean(checkout):
    before = contents(checkout/"nbs")
    nbdev("from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()", checkout)
    after = contents(checkout/"nbs")
    assert not (dirty := differing(before, after)), f"run nbdev_clean and commit: {dirty}"


def test_readme_is_fresh():
    from grok_nb.docs.site import readme
    assert read("README.md") == readme(ROOT), "run `make readme` and commit"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_says_what_you_gain(page):
    first = cells(page)[0]
    assert first["cell_type"] == "markdown", "the first cell is the title"
    assert re.match(r"# \S[^\n]*\n+> \S[^\n]*(\n|$)(?!>)", source(first)), "`# title`, then `> what you gain, in one line`"
    module = [m[1] for cell in cells(page) if (m := re.match(r"#\| default_exp (?!__)(\S+)", source(cell)))]
    titled = re.match(r"# (.+)", source(first))[1]
    assert titled == (module[0] if module else titled[0].upper() + titled[1:]) or page.name in ("index.ipynb", "00_init.ipynb", "02_overview.ipynb"), "a module's page is called as it is imported"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_is_small_enough_to_read(page):
    with_scrubber = '<input type=\\"range\\"' in read(page)
    assert (ROOT/page).stat().st_size <= (1_000_000 if with_scrubber else 300_000)
    assert len(cells(page)) <= 150


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_shows_no_failure_and_no_machine(page):
    for cell in cells(page):
        outputs = json.dumps(cell.get("outputs", []))
        assert '"output_type": "error"' not in outputs, source(cell)
        assert "widget-state" not in outputs, source(cell)
        assert not re.search(r"(?<![\w.])/tmp/\w", outputs), f"a temporary path in the output of: {source(cell)}"
    assert "widgets" not in json.loads(read(page))["metadata"], "saved widget state breaks the documentation"


@pytest.mark.parametrize("asked", [["format", "--check"], ["check"]], ids=" ".join)
def test_notebooks_please_ruff(asked):
    done = subprocess.run([sys.executable, "-m", "ruff", *asked, "nbs"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"run `ruff format nbs` or `ruff check nbs`: {done.stdout}{done.stderr}"


def is_exported(cell): return cell["cell_type"] == "code" and source(cell).startswith("#| export")


def test_one_idea_a_cell():
    "Exported cells are short, and never many in a row without a word or a lesson."
    sizes, long_runs = [], []
    for page in PAGES:
        row = 0
        for cell in cells(page):
            row = row + 1 if is_exported(cell) else 0
            if row: sizes.append(len(source(cell).splitlines()) - 1)
            if row and sizes[-1] > 60: long_runs.append(f"{page}: a cell of {sizes[-1]} lines")
            if row == 4: long_runs.append(f"{page}: four exported cells in a row, to {cell['id']}")
    assert not long_runs
    assert statistics.median(sizes) <= 14


def kind(cell):
    "What a cell is on its page: an export; a lesson, which shows or tests something; or neither."
    text = source(cell)
    if cell["cell_type"] != "code": return "lesson" if "![" in text or "<img" in text else "words"
    if all(re.match(r"$|#|import |from |    |\)", line) for line in text.splitlines()): return "imports"
    return "export" if is_exported(cell) else "lesson"


def without_a_lesson(page):
    "How many exported cells stand in a row that has no lesson within the two cells before or after it."
    kinds, n = [kind(cell) for cell in cells(page)], 0
    for exported, row in groupby(range(len(kinds)), lambda i: kinds[i] == "export"):
        first, *_, last = [*row]*2
        if exported and "lesson" not in kinds[max(0, first - 2):first] + kinds[last + 1:last + 3]: n += last - first + 1
    return n


def test_a_lesson_is_near():
    exported = sum(kind(cell) == "export" for page in PAGES for cell in cells(page))
    found = {str(page): n for page in PAGES if (n := without_a_lesson(page))}
    far = sum(found.values())
    print(f"{far} of {exported} exported cells have no lesson near:", *sorted(found.items(), key=lambda item: -item[1]), sep="\n  ")
    assert far < .02*exported


def test_no_machine_paths_and_no_package_index():
    machine = r"/(?:root|home/\w+|Users/\w+|work/(?:main|shared)|opt/\w+)/"
    index = r"--(?:extra-)?index-url|--find-links|download\.pytorch\.org|files\.pythonhosted\.org|pypi\.org/simple|\d\+c(?:pu|u\d+)\b"
    found = []
    for p in FILES:
        if p == Path("tests/test_repository.py") or (ROOT/p).is_symlink(): continue
        try: text = read(p)
        except UnicodeDecodeError: continue
        found += [f"{p}: {m[0]}" for m in re.finditer(f"{machine}|{index}", text)]
    assert not found


@pytest.mark.parametrize("module", [m for m in LIGHT if any(ROOT.joinpath(*m.split(".")).with_suffix(s).exists() for s in ("", ".py"))])
def test_import_is_light(module):
    code = f"import sys, {module}; print(*(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split(), f"import {module} loads {done.stdout}"


def test_console_scripts_exist():
    for script in CFG.get("console_scripts", "").split():
        name, module, function = re.fullmatch(r"([\w-]+)=([\w.]+):(\w+)", script).groups()
        path = Path(*module.split(".")).with_suffix(".py")
        assert path in FILES, f"{name}: {path} is missing"
        defined = {node.name for node in ast.parse(read(path)).body if isinstance(node, ast.FunctionDef)}
        assert function in defined, f"{name}: {path} has no function {function}"


def test_constraints_pin_what_is_required():
    lines = [line for line in read("constraints.txt").splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "name==version, nothing else"
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in (line.split("==") for line in lines)}
    for wanted in map(Requirement, " ".join(CFG[f"{kind}requirements"] for kind in ("", "dev_", "peers_", "dask_", "slurm_")).split()):
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        assert name in pinned, f"{wanted.name} is required and not pinned"
        assert wanted.specifier.contains(pinned[name]), f"{wanted} excludes the pinned {pinned[name]}"


def test_settings_are_known_to_nbdev():
    from nbdev.config import _types
    own = "requirements dev_requirements peers_requirements dask_requirements slurm_requirements console_scripts procs renderer user author author_email description repo branch".split()
    unknown = set(CFG) - set(_types) - set(own)
    assert not unknown, f"settings.ini: {unknown}"
    assert CFG["tst_flags"].split() == ["notest", "slow", "gpu"]


def test_every_page_is_in_the_sidebar():
    import yaml
    assert os.readlink(ROOT/"nbs"/"_quarto.yml") == "../_quarto.yml", "nbs/_quarto.yml is a link to the file at the root"
    def patterns_in(contents):
        if isinstance(contents, str): return [contents]
        return [p for entry in contents for p in patterns_in(entry if isinstance(entry, str) else entry["contents"])]
    patterns = patterns_in(yaml.safe_load(read("_quarto.yml"))["website"]["sidebar"]["contents"])
    missing = [str(p) for p in PAGES if not any(p.relative_to("nbs").match(pattern) for pattern in patterns)]
    assert not missing, f"add to the sidebar in _quarto.yml: {missing}"


def test_readme_names_what_exists():
    text, commands = read("README.md"), re.findall(r"^([\w-]+):.*##", read("Makefile"), re.M)
    for command in re.findall(r"(?:^|`)make ([\w-]+)", text, re.M):
        assert command in commands, f"README says make {command}"
    assert {"demo", "test"} <= set(re.findall(r"^make (\w+)$", text, re.M)), "the two commands stand on lines of their own"
    scripts = {script.split("=")[0] for script in CFG.get("console_scripts", "").split()}
    for command in re.findall(r"(?:^|`)(grok_nb_\w+)", text, re.M): assert command in scripts, f"README says {command}"
    for target in re.findall(r"\]\(([^)\s]+)", text):
        if not re.match(r"https?:|#", target): assert Path(target.split("#")[0]) in FILES, f"README links to {target}"


def test_the_page_on_citing_is_fresh():
    import yaml
    shown = re.sub(r"\W", "", "".join("".join(o.get("text", "")) for cell in cells("nbs/cite.ipynb") for o in cell.get("outputs", [])))
    software = yaml.safe_load(read("CITATION.cff"))
    for work in (software, *software["references"]):
        told = [work["title"], str(work.get("year", "")), work.get("version", ""), work.get("url") or work["repository-code"]]
        told += [name for a in work["authors"] for name in a.values()]
        for text in told: assert re.sub(r"\W", "", text) in shown, f"nbs/cite.ipynb does not say {text}: make notebooks NB=nbs/cite.ipynb"
    assert software["version"] == CFG["version"]


def test_ci_runs_the_test_command_of_readme():
    path = ROOT/".ci"/"run"
    assert path.stat().st_mode & stat.S_IXUSR, ".ci/run is executable"
    assert read(".ci/run").rstrip().splitlines()[-2:] == ["make test", "make test-slow"]
    assert re.search(r"^test-all: test test-slow ##", read("Makefile"), re.M), "which is all of it"


def test_every_page_is_run_by_one_of_the_two():
    from nbdev.doclinks import nbglob
    quick, slow = re.findall(r"nbdev_test --n_workers 2 --timing (.*)", read("Makefile"))
    skipped, there = re.search("--skip_folder_re '(.*)'", quick)[1], slow.removeprefix("--path ")
    pages, left_out = (set(map(str, nbglob(skip_folder_re=folders))) for folders in ("^[_.]", skipped))
    assert pages - left_out == set(map(str, nbglob(ROOT/there))) and len(left_out) > 90


def names_of_tests(path):
    "The names of the tests of a file, those of its classes included."
    return {node.name for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_promise_has_its_test():
    "A test that is renamed takes its row along: nothing is promised that no test sees."
    files = {str(p): names_of_tests(p) for p in FILES if p.match("tests/test_*.py")}
    rows = json.loads(read("nbs/promises.json"))
    named = {row: row.removesuffix(" slow").split("[")[0].partition("::") for row in rows}
    stale = [row for row, (file, _, test) in named.items() if test.split("::")[-1] not in files.get(file, ())]
    assert len(rows) > 50 and not stale, f"nbs/promises.json names tests that do not exist: {stale}"
