"The floors of the house: what imports what. Imports go down, nobody sees a wing but what stands above it, and there are no circles."
import ast
from functools import lru_cache

import pytest
from conftest import ROOT, tracked_files
from grok_nb import wings

MODULES = {".".join(p.with_suffix("").parts).removesuffix(".__init__"): p for p in tracked_files()
           if p.suffix == ".py" and p.parts[0] == "grok_nb" and p.name != "_modidx.py"}
# Who may be imported by whom, from the top down; a floor may import itself and everything below it.
FLOORS = "top", "wing", "see", "core"


def floor(module):
    "On which floor a module stands. The study of a text is a wing, and the other language models stand on it."
    room = (module.split(".") + [""])[1]
    if room in (*wings, "corpus"): return "wing"
    if room in ("commands", "completion", "convert", "gpu", "listing", "prune", "push", "scaffold", "docs", "__main__"): return "top"
    return "see" if room == "see" else "core"


@lru_cache
def imports(module):
    "What a module imports of the package: (module, name or empty, at the top of the file?)."
    path, found = MODULES[module], []
    tree = ast.parse((ROOT/path).read_text(encoding="utf-8"))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    first = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found += [(a.name, "", id(node) in first) for a in node.names]
        if not isinstance(node, ast.ImportFrom): continue
        above = ".".join(package.split(".")[:len(package.split(".")) - node.level + 1]) if node.level else ""
        base = ".".join(filter(None, [above, node.module]))
        for a in node.names:
            whole = f"{base}.{a.name}"
            found.append((whole, "", id(node) in first) if whole in MODULES else (base, a.name, id(node) in first))
    return [(m, name, top) for m, name, top in found if m in MODULES]


def test_every_module_is_read():
    assert len(MODULES) > 50 and sum(len(imports(m)) for m in MODULES) > 200


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    for other, name, top in imports(module):
        if (module, other) == ("grok_nb.study", "grok_nb.see.scrubber") and not top: continue # `scrub` opens it when asked
        assert FLOORS.index(floor(other)) >= FLOORS.index(floor(module)), f"{module} imports {other} from above"
        apart = {m.split(".")[1] for m in (module, other) if floor(m) == "wing"} - {"corpus"}
        assert floor(other) != "wing" or floor(module) == "top" or len(apart) < 2, f"{module} imports another wing: {other}"


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_at_home(module):
    taken = [f"{other}.{name}" for other, name, _ in imports(module) if name.startswith("_") and not name.startswith("__")]
    assert not taken, f"{module} takes {taken}: give them a public name"


def test_nobody_but_the_registry_knows_a_study_by_name():
    "Below the wings no text names one as a module or a study; `grok_nb/__init__.py` lists them."
    for module, path in MODULES.items():
        if floor(module) in ("wing", "top") or module == "grok_nb": continue
        tree = ast.parse((ROOT/path).read_text(encoding="utf-8"))
        named = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in wings]
        assert not named, f"{module} names {named}"


def test_there_is_no_circle():
    done, open_ = set(), []
    def enter(module):
        assert module not in open_, f"a circle: {' → '.join([*open_[open_.index(module):], module])}"
        if module in done: return
        open_.append(module)
        for other, _, top in imports(module):
            if top and other not in (module, "grok_nb"): enter(other)
        done.add(open_.pop())
    for module in MODULES: enter(module)


@pytest.mark.parametrize("module", MODULES)
def test_text_is_utf8_on_every_machine(module):
    "Whatever opens a text file names the encoding."
    for call in (n for n in ast.walk(ast.parse((ROOT/MODULES[module]).read_text(encoding="utf-8"))) if isinstance(n, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name not in ("open", "read_text", "write_text") or ast.unparse(call.func) == "os.open": continue
        named = any(k.arg == "encoding" for k in call.keywords)
        binary = any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in call.args[1:2])
        assert named or binary, f"{module}: {ast.unparse(call)}"


@pytest.mark.parametrize("module", MODULES)
def test_durations_are_not_of_a_clock_that_can_be_set(module):
    "Only what is compared with the times of files, or is told to others, may be the time of day."
    source = (ROOT/MODULES[module]).read_text(encoding="utf-8")
    allowed = {"grok_nb.runs": {"_silent", "beat"}, "grok_nb.files": {"file_hash"}}.get(module, set())
    used = [f.name for f in ast.walk(ast.parse(source)) if isinstance(f, ast.FunctionDef) and "time.time()" in ast.unparse(f)]
    assert set(used) <= allowed, used


HOLD_STATE = {"Panel", "_Plot", "SentenceStream", "Study", "Context", "Task"}


def test_what_was_found_or_chosen_is_not_changed_afterwards():
    "Configurations, times, evidence, verdicts: dataclasses are frozen, but for the few that hold state."
    found = {}
    for path in sorted((ROOT/"grok_nb").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for made in getattr(node, "decorator_list", []) if isinstance(node, ast.ClassDef) else []:
                if "dataclass" in ast.unparse(made): found[node.name] = "frozen=True" in ast.unparse(made)
    assert {name for name, frozen in found.items() if not frozen} == HOLD_STATE
