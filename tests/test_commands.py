"The commands that list and judge, and the report in every format: exit status, messages, JSON that equals the table, nothing heavy loaded."
import json
import os
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from importlib import import_module

import pandas as pd
import pytest
from conftest import ROOT

from grok_nb import InputError, commands, listing, studies, wings
from grok_nb.files import in_words, size_of, write_atomic
from grok_nb.evidence import measured_inside
from grok_nb.modular.study import study
from grok_nb.runs import Run, describe
from grok_nb.see import formats

HEAVY = "torch transformers matplotlib datasets".split() # what a list needs not; pandas makes it
TINY = dict(p=5, n_id=16, alpha=.8, n_shots=4, depth=1, width=16, heads=2, batch_size=16, n_eval=32, n_ood=8, attention_dropout=0,
            steps=60, warmup_steps=5, evaluate_every=5, checkpoints=3, checkpoint_on_change=0)
SCRIPTS = ConfigParser(delimiters=["="])
SCRIPTS.read(ROOT/"settings.ini", encoding="utf-8")
NAMES = dict(script.split("=") for script in SCRIPTS["DEFAULT"]["console_scripts"].split())


def shell(root, command, *words, code="", **env):
    "A command in a process of its own: status, stdout, stderr, which of HEAVY it loaded."
    run = f"import sys\nfrom grok_nb.commands import *\n{code}\ntry: {command}()\nfinally: print('loaded:', *sorted(set({HEAVY}) & set(sys.modules)))"
    env = os.environ | dict(GROK_NB_RUNS=str(root), OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)) | env
    done = subprocess.run([sys.executable, "-c", run, *map(str, words)], env=env, capture_output=True, text=True)
    out, _, loaded = done.stdout.rpartition("loaded:")
    return done.returncode, out, done.stderr, loaded.split()


def said(capsys, command, *words):
    "What a command prints, in this process; a mistake is raised as SystemExit."
    capsys.readouterr()
    command([*map(str, words)])
    return capsys.readouterr().out


def told(capsys, command, *words):
    "The one line of a refused command."
    capsys.readouterr()
    with pytest.raises(SystemExit) as e: command([*map(str, words)])
    got = capsys.readouterr()
    assert e.value.code == 2 and got.out == "" and got.err.count("\n") == 1
    return got.err


@pytest.fixture(scope="module", autouse=True)
def presets():
    "A demo and a control of seconds, for this file alone."
    with pytest.MonkeyPatch.context() as patch:
        for name, n_id in dict(demo=16, control=8).items(): patch.setitem(study.presets, name, study.presets["smoke"].replace(**TINY | dict(n_id=n_id)))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "Two demos and two controls, finished, a finished run with options of its own, a new one, and folders that cannot be read."
    from grok_nb.training import train
    root = tmp_path_factory.mktemp("runs")
    for name in ("demo", "control"):
        for seed in (0, 1): train(study.config(name, seed=seed), root, progress=False)
    train(study.config("demo", lr=.002), root, progress=False)
    Run.create(study.config("demo", seed=7), root)
    for name, text in dict(cut='{"study": "mod', foreign='{"study": "physics", "run_id": "foreign", "options": {}}').items():
        (root/name).mkdir()
        (root/name/"config.json").write_text(text)
    edited = Run.create(study.config("demo", seed=8), root).path
    write_atomic(edited/"config.json", (edited/"config.json").read_text().replace('"steps": 60', '"steps": 61'))
    odd = Run.create(study.config("demo", seed=9), root)
    (odd.path/"metrics.jsonl").write_text('{"step": 0, "rows": 3}\n')
    return root


@pytest.fixture
def root(trained, tmp_path):
    "A copy that a test may change."
    return shutil.copytree(trained, tmp_path/"runs", copy_function=shutil.copy2)


def finished(root): return [Run(p.parent) for p in sorted(root.glob("modular-*/checkpoints"))]


# ---- runs ----

def test_the_list_is_what_describe_says(trained, capsys):
    got = json.loads(said(capsys, commands.grok_nb_runs, "--runs", trained, "--by", "name", "--json"))
    table = pd.DataFrame(got["runs"])
    want = describe([Run(trained/r) for r in table.run])
    pd.testing.assert_frame_equal(table[want.columns.tolist()], want, check_dtype=False)
    assert table.run.is_monotonic_increasing and len(table) == 6
    assert table.bytes.tolist() == [size_of(trained/r) for r in table.run]
    assert set(table.curve) == {"unseen tasks"}


def test_the_text_of_the_list_is_the_json(trained, capsys):
    rows = json.loads(said(capsys, commands.grok_nb_runs, "--runs", trained, "--json"))["runs"]
    lines = said(capsys, commands.grok_nb_runs, "--runs", trained).splitlines()
    assert lines[0] == study.question and "unseen tasks" in lines[1]
    for row, line in zip(rows, lines[2:2 + len(rows)], strict=True):
        for part in (row["run"], row["preset"], row["state"], f"{row['step']:,} of {row['steps']:,}", in_words(row["bytes"])): assert f" {part} " in f" {line} "
        assert line.endswith(row["verdict"]) and (row["value"] is None or f" {row['value']:.3f} " in line)


def test_the_verdict_is_that_of_the_report(trained):
    from grok_nb.evidence import when
    runs, (table, _) = finished(trained), listing.listing(trained)
    found = when(runs).query("curve == 'unseen tasks'")
    for run, name in zip(runs, dict.fromkeys(found.run)):
        verdict, rows = table.set_index("run").verdict[run.run_id], found[found.run == name]
        if (rows.direction == "none").all(): assert verdict == "no change"; continue
        for part, row in zip(verdict.split(", "), rows.itertuples(), strict=True):
            end = f"–{row.midpoint_hi:,.0f}" if row.midpoint_hi < float("inf") else ""
            assert part == f"{row.direction} {'' if end else 'after '}{row.midpoint_lo:,.0f}{end}"


@pytest.mark.parametrize("values, verdict", [
    ([], "not evaluated"), ([.1] * 7, "too few evaluations"), ([.1] * 20, "no change"),
    ([.1 + .001 * (i % 3) + .8 * (i >= 12) for i in range(24)], "up 1,100–1,200"),
    ([.9 - .001 * (i % 3) - .8 * (i >= 12) for i in range(24)], "down 1,100–1,200"),
    ([None, *(.1 + .001 * (i % 3) + .8 * (i >= 12) for i in range(1, 24))], "up 1,100–1,200")])
def test_verdicts_in_words(values, verdict): assert listing.when_it_changed({100 * i: v for i, v in enumerate(values)}) == verdict


def test_what_cannot_be_read_is_named_and_stops_nothing(trained, capsys):
    text = said(capsys, commands.grok_nb_runs, "--runs", trained)
    above, _, below = text.partition("Cannot be read by this version:\n")
    reasons = dict(line.strip().split(": ", 1) for line in below.splitlines())
    assert above.count("finished") == 5 and len(reasons) == 4
    assert "cannot be read" in reasons["cut"] and "'physics' is unknown" in reasons["foreign"]
    assert sorted(why.split()[0] for name, why in reasons.items() if name not in ("cut", "foreign")) == ["config.json", "metrics.jsonl"]
    assert str(trained) not in below
    assert json.loads(said(capsys, commands.grok_nb_runs, "--runs", trained, "--json"))["others"] == reasons


def test_newest_first(root, capsys):
    runs = finished(root)
    for age, run in enumerate(runs): os.utime(run.path/"metrics.jsonl", (time.time() - 1000 * age,) * 2)
    got = json.loads(said(capsys, commands.grok_nb_runs, "--runs", root, "--json"))["runs"]
    assert [r["run"] for r in got if r["state"] == "finished"] == [r.run_id for r in runs]
    os.utime(runs[-1].path/"metrics.jsonl", (time.time() + 1000,) * 2)
    assert json.loads(said(capsys, commands.grok_nb_runs, "--runs", root, "--json"))["runs"][0]["run"] == runs[-1].run_id


def test_one_study_alone(trained, capsys):
    assert json.loads(said(capsys, commands.grok_nb_runs, "--runs", trained, "--study", "copying", "--json"))["runs"] == []
    text = said(capsys, commands.grok_nb_runs, "--runs", trained, "--study", "copying")
    assert text.startswith(f"There are no runs of the study copying in {trained}\n")


@pytest.mark.parametrize("made", [True, False])
def test_no_runs_is_no_mistake(tmp_path, capsys, made):
    if made: (tmp_path/"none").mkdir()
    assert said(capsys, commands.grok_nb_runs, "--runs", tmp_path/"none") == f"There are no runs in {tmp_path/'none'}\n"
    assert json.loads(said(capsys, commands.grok_nb_runs, "--runs", tmp_path/"none", "--json")) == dict(runs=[], others={})
    assert (tmp_path/"none").exists() == made


def test_the_tree_is_the_folder(root, capsys):
    run = finished(root)[0]
    (run.folder(run.steps[1])/"MANIFEST.json").unlink()
    (run.path/"tables").mkdir()
    pd.DataFrame(dict(a=range(1234))).to_parquet(run.path/"tables"/"some.parquet")
    (run.path/"tables"/"torn.parquet").write_bytes(b"PAR1")
    found = json.loads(said(capsys, commands.grok_nb_runs, "--tree", run.run_id, "--runs", root, "--json"))
    assert found == json.loads(said(capsys, commands.grok_nb_runs, "--tree", run.path, "--json")) == listing.tree(run.path)
    inside = {part["name"]: part for part in found["inside"]}
    assert found["bytes"] == size_of(run.path) and inside["metrics.jsonl"]["note"] == f"{len(run.records())} evaluations"
    notes = {step["name"]: step["note"] for step in inside["checkpoints"]["inside"]}
    assert {int(name[5:]) for name, note in notes.items() if note != "not whole: does not count"} == set(run.steps)
    assert {int(name[5:]) for name, note in notes.items() if note == "can be resumed"} == {c.step for c in run.checkpoints if c.has_state}
    assert {t["name"]: t["note"] for t in inside["tables"]["inside"]} == {"some.parquet": "1,234 rows", "torn.parquet": "cannot be read"}
    text = said(capsys, commands.grok_nb_runs, "--tree", run.path)
    def every(part): return [part["name"], *(name for p in part["inside"] for name in every(p))]
    assert [re.sub(r"^[│├└─ ]*", "", line).split("  ")[0] for line in text.splitlines()] == every(found)


def test_the_tree_of_a_run_that_cannot_be_read(trained, capsys):
    assert said(capsys, commands.grok_nb_runs, "--tree", "cut", "--runs", trained) == "cut  14 bytes\n└── config.json  14 bytes\n"


@pytest.mark.parametrize("words, says", [
    (["--study", "modula"], "did you mean 'modular'"), (["--by", "nam"], "did you mean 'name'"), (["--tree", "cutt"], "did you mean 'cut'"),
    (["--tree", "cut", "--study", "modular"], "leave one of the two out"), (["--trees"], "did you mean '--tree'")])
def test_runs_refuses_in_one_line(trained, capsys, words, says):
    assert says in told(capsys, commands.grok_nb_runs, *words, "--runs", trained)


def test_a_list_loads_nothing_heavy_and_writes_nothing(root):
    before = sorted(root.rglob("*"))
    status, out, err, loaded = shell(root, "grok_nb_runs", code="for words in (['--json'], ['--tree', 'cut']): grok_nb_runs(words)")
    assert status == 0 and err == "" and not loaded
    assert json.JSONDecoder().raw_decode(out)[0]["runs"] and "\ncut  14 bytes\n" in out and study.question in out
    assert sorted(root.rglob("*")) == before


def test_a_hundred_runs_are_listed_in_seconds(root, monkeypatch):
    "Seconds of this process; the limit is several times what a list takes."
    run = finished(root)[0]
    for seed in range(100, 200):
        new = Run.create(study.config("demo", seed=seed), root)
        shutil.copytree(run.path/"checkpoints", new.path/"checkpoints")
        shutil.copy(run.path/"metrics.jsonl", new.path)
    monkeypatch.setattr("grok_nb.files.file_hash", lambda path: pytest.fail(f"{path} is hashed"))
    listing.when_it_changed({i: i for i in range(9)})
    began = time.process_time()
    table, _ = listing.listing(root)
    assert len(table) == 106 and time.process_time() - began < 20


# ---- claims ----

def rows_of(capsys, *words): return json.loads(said(capsys, commands.grok_nb_claims, *words, "--own", "--json"))


def test_claims_are_judged_on_finished_presets_alone(trained, capsys):
    from grok_nb.claims import ledger
    from grok_nb.evidence import tables
    runs = [r for r in finished(trained) if r.preset != "custom"]
    assert len(runs) == 4
    want = json.loads(ledger(study.claims(), tables(runs, measure_missing=False)).to_json(orient="records"))
    assert rows_of(capsys, "--study", "modular", "--runs", trained) == [dict(study="modular") | row for row in want]
    assert any(row["verdict"] == "inconclusive" and row["seeds"] == 2 for row in want)


def test_claims_measure_only_when_asked(root, capsys):
    before = sorted(root.rglob("*"))
    first = rows_of(capsys, "--study", "modular", "--runs", root)
    assert sorted(root.rglob("*")) == before
    lacking = [row["claim"] for row in first if row["reason"].startswith("needs the table")]
    assert lacking
    second = rows_of(capsys, "--study", "modular", "--runs", root, "--measure")
    assert not [row for row in second if row["reason"].startswith("needs the table")]
    assert len([*root.glob("*/tables/geometry.parquet")]) == 4
    assert rows_of(capsys, "--study", "modular", "--runs", root) == second # what lies there is taken


def test_what_some_runs_lack_does_not_spoil_the_rest(root, capsys):
    demo = next(r for r in finished(root) if r.preset == "demo")
    measured_inside([demo], 1)
    table = measured_inside(finished(root), measure_missing=False)
    assert set(table.run) == {demo.run_id} and table.value.dtype == float
    assert {row["verdict"] for row in rows_of(capsys, "--study", "modular", "--runs", root)} == {"inconclusive", "not tested"}


def test_the_text_of_the_claims_is_the_json(trained, capsys):
    rows = rows_of(capsys, "--study", "modular", "--runs", trained)
    text = said(capsys, commands.grok_nb_claims, "--study", "modular", "--own", "--runs", trained)
    flat = re.sub(r"\s+", " ", text)
    assert text.startswith(study.question) and re.search(r"Judged on these runs \((2 × control, 2 × demo|2 × demo, 2 × control)\)\.", text)
    for column in ("claim", "statement", "paper", "effect", "seeds", "fidelity", "verdict", "why"): assert column in text.splitlines()[1]
    for row in rows:
        assert row["verdict"] in flat
        if row["seeds"]: assert f" {row['seeds']} " in flat
    counts = {v: sum(r["verdict"] == v for r in rows) for v in ("supported", "not supported", "inconclusive", "not tested")}
    assert ", ".join(f"{n} {v}" for v, n in counts.items() if n) in text


def test_without_runs_no_claim_is_tested(tmp_path, capsys):
    rows = rows_of(capsys, "--runs", tmp_path)
    assert {row["verdict"] for row in rows} == {"not tested"}
    want = {(name, c.name) for name in studies for c in studies[name].claims()}
    assert {(row["study"], row["claim"]) for row in rows} == want
    assert said(capsys, commands.grok_nb_claims, "--runs", tmp_path, "--study", "corpus").splitlines()[1] == "no claims"
    assert not [*tmp_path.iterdir()]


def test_claims_refuse_in_one_line(capsys):
    assert "did you mean 'grammar'" in told(capsys, commands.grok_nb_claims, "--study", "gramar")


# ---- reports ----

@pytest.mark.slow
def test_a_report_as_markdown(root, tmp_path, capsys, small_pictures):
    run, out = finished(root)[0], tmp_path/"a page.md"
    for _ in range(2): assert said(capsys, commands.grok_nb_report, run.path, "--out", out) == f"{out}\n"
    text, pictures = out.read_text(), {p.name for p in (tmp_path/"a page-pictures").iterdir()}
    assert set(re.findall(r"\]\(a%20page-pictures/(\S+)\)", text)) == pictures and len(pictures) > 3
    assert text.startswith(f"# {study.question}\n") and "## Claims" in text and "| seen tasks " in text
    for foreign in ("<script", "<style", "<div", "base64", "style=", "\ue000", "\ue001"): assert foreign not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a page-pictures", "a page.md", "runs"] # no part of a file is left


def browser():
    "Skip what Chromium is needed for where there is none."
    pytest.importorskip("playwright.sync_api")
    if not formats.chromium(): pytest.skip("needs Chromium")


@pytest.mark.slow
def test_a_report_as_pdf(root, tmp_path, capsys, small_pictures):
    browser()
    run = finished(root)[0]
    path = run.path.parent/f"report-{run.run_id}.pdf"
    assert said(capsys, commands.grok_nb_report, run.run_id, "--runs", root, "--format", "pdf") == f"{path}\n"
    content = path.read_bytes()
    assert content[:5] == b"%PDF-" and content.rstrip().endswith(b"%%EOF") and content.count(b"/Subtype /Image") > 3
    assert len(re.findall(rb"/Type /Page\b", content)) > 1


@pytest.mark.parametrize("form", ["html", "md", "pdf"])
def test_a_sweep_in_every_format(trained, tmp_path, capsys, small_pictures, form):
    if form == "pdf": browser()
    folder = shutil.copytree(trained, tmp_path/"runs")/"sweeps"/"mine"
    folder.mkdir(parents=True)
    facts = dict(study="modular", preset="demo", grid=dict(n_id=[8, 16]), seeds=[0, 1], fixed={})
    (folder/"sweep.json").write_text(json.dumps(dict(facts=facts, runs=[r.run_id for r in finished(trained) if r.preset != "custom"])))
    assert said(capsys, commands.grok_nb_report, "mine", "--runs", tmp_path/"runs", "--format", form) == f"{folder/f'report.{form}'}\n"
    assert (folder/f"report.{form}").stat().st_size > 1000


@pytest.mark.parametrize("words, says", [
    (["--format", "pfd"], "did you mean 'pdf'"), (["--out", "a.docx"], ".html, .md or .pdf"), (["--out", "a"], ".html, .md or .pdf"),
    (["--out", "a.pdf", "--format", "md"], "must end in .md"), (["--out", "folder.md"], "is a folder"), (["--out", "no/a.md"], "no folder")])
def test_formats_that_are_refused(root, tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"folder.md").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert says in told(capsys, commands.grok_nb_report, finished(root)[0].path, *words)
    assert sorted(tmp_path.rglob("*")) == before


HIDE = """
import importlib.util as u
real, hidden = u.find_spec, HIDDEN
u.find_spec = lambda name, *more: None if name in hidden else real(name, *more)
"""


@pytest.mark.parametrize("form, hidden, path, says", [
    ("md", ["pypandoc"], None, "pypandoc (pip install pypandoc_binary)"), ("pdf", ["playwright"], None, "playwright (pip install playwright)"),
    ("pdf", [], "", "Chromium (apt install chromium")])
def test_a_missing_tool_is_named_before_anything_is_done(root, form, hidden, path, says):
    if not hidden: pytest.importorskip("playwright.sync_api")
    before = sorted(root.rglob("*"))
    env = dict(PATH=path, PLAYWRIGHT_BROWSERS_PATH=str(root)) if path is not None else {}
    status, out, err, loaded = shell(root, "grok_nb_report", finished(root)[0].run_id, "--format", form, code=HIDE.replace("HIDDEN", str(hidden)), **env)
    assert status == 2 and out == "" and err.count("\n") == 1 and says in err and not loaded, err
    assert sorted(root.rglob("*")) == before
    with pytest.MonkeyPatch.context() as patch: # from Python, too
        patch.setattr(formats, "_missing", lambda form: [says])
        from grok_nb.see.report import report
        with pytest.raises(InputError, match="needs"): report(finished(root)[:1], root/f"a.{form}")


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path/"a.md").write_text("old")
    def full(*paths): raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError): formats.save(tmp_path/"a.md", "<p>new</p>")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.md", "old")]


@pytest.mark.parametrize("page, text", [
    ("<p>a &lt;b&gt; &amp; c</p>", "a \\<b\\> & c\n"), ("<script>x</script><style>y</style><p>z</p>", "z\n"),
    ("<div class='gs'><label>step <input type=range></label><button>Play</button><p>shown</p><script>if (a</b) {}</script></div>", "shown\n"),
    ("<h1 id='x'>So: it Comes?</h1><p><a href='#x'>there</a></p>", "# So: it Comes?\n\n[there](#so-it-comes)\n"),
    ("<img src='https://example.org/a.png' alt='a'>", "![a](https://example.org/a.png)\n"), ("<canvas>old</canvas><svg><text>t</text></svg>b", "b\n")])
def test_markdown_of_pieces(page, text):
    pytest.importorskip("pypandoc")
    assert formats.markdown(page) == (text, {})


# ---- every command ----

@pytest.mark.parametrize("name", NAMES)
def test_help_has_examples_that_can_be_typed(name, capsys):
    module, function = NAMES[name].split(":")
    main = getattr(import_module(module), function)
    with pytest.raises(SystemExit) as e: main(["--help"])
    text = capsys.readouterr().out
    assert not e.value.code
    usage, _, examples = text.partition("examples:\n")
    examples = [line.split() for line in examples.splitlines() if line.strip()]
    assert examples and all(words[0] == name for words in examples)
    for words in examples:
        for word in words:
            if word.startswith("--"): assert f"{word} " in usage or f"{word}\n" in usage, word


def test_the_overview_names_every_command_and_study():
    done = subprocess.run([sys.executable, "-m", "grok_nb"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    for name, where in NAMES.items():
        module, function = where.split(":")
        first, *examples = filter(None, map(str.strip, getattr(import_module(module), function).__doc__.splitlines()))
        assert re.search(rf"^  {name} +{re.escape(first)}\n +{re.escape(examples[0])}$", done.stdout, re.M)
    for name in studies: assert studies[name].question in done.stdout
    wrong = subprocess.run([sys.executable, "-m", "grok_nb", "reprot"], cwd=ROOT, capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout) == (2, "") and "did you mean 'report'" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough_is_no_failure(runs_root):
    Run.create(study.config("smoke"), runs_root)
    reader, writer = os.pipe()
    os.close(reader) # as `| head` leaves it
    done = subprocess.run([sys.executable, "-c", "from grok_nb.commands import grok_nb_runs; grok_nb_runs([])"], stdout=writer,
                          stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_be_asked_any_more_is_looked_up_or_said(trained, monkeypatch):
    "Probes that are made from a text cannot be made when it is gone."
    def gone(config): raise InputError("the text is gone")
    runs = finished(trained)
    monkeypatch.setattr(runs[0].study, "checkpoint_probes", gone)
    assert measured_inside(runs, measure_missing=False).empty
    with pytest.raises(InputError, match="the text is gone"): measured_inside(runs)


# ---- streams, disks and signals ----

def started_by(redirection, root, *words, **env):
    "A command that a shell starts with such a redirection: status, stdout, stderr."
    env = os.environ | dict(GROK_NB_RUNS=str(root), OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="") | env
    done = subprocess.run(["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, *map(str, words)], env=env, capture_output=True)
    return done.returncode, done.stdout, done.stderr.decode()


COMMAND = "-c", "import sys, grok_nb.commands as c; getattr(c, sys.argv[1])(sys.argv[2:])"
COMMANDS = dict(list=[*COMMAND, "grok_nb_runs"], overview=["-m", "grok_nb"], help=[*COMMAND, "grok_nb_claims", "--help"])


@pytest.mark.promise("disk")
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_stdout_that_takes_nothing(trained, words):
    if not os.path.exists("/dev/full"): pytest.skip("needs /dev/full")
    assert started_by(">&-", trained, *words) == (0, b"", "")
    status, _, err = started_by("> /dev/full", trained, *words)
    assert status == 1 and err.endswith(": standard output: No space left on device\n") and err.count("\n") == 1


@pytest.mark.promise("disk")
def test_no_file_takes_the_place_of_a_closed_stream(trained, tmp_path):
    code = "import os; from grok_nb.commands import grok_nb_runs as list; list([]); os._exit(open('x', 'w').fileno())"
    assert started_by("<&- >&- 2>&-", trained, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}")[0] > 2


ASCII = dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"), dict(PYTHONIOENCODING="ascii")


@pytest.mark.promise("surroundings")
@pytest.mark.parametrize("env", ASCII, ids=["locale", "stdout"])
def test_a_machine_that_does_not_speak_utf8(trained, tmp_path, capsys, env):
    "Lists have question marks; files are as everywhere, names that are no text included."
    run = finished(trained)[0]
    status, out, err = started_by("", trained, *COMMAND, "grok_nb_runs", "--tree", run.path, **env)
    plain = said(capsys, commands.grok_nb_runs, "--tree", run.path)
    assert (status, err) == (0, "") and not plain.isascii() and out.decode() == re.sub(r"[^\x00-\x7f]", "?", plain)
    code = "import sys, pathlib, grok_nb.files as f; f.write_atomic(pathlib.Path(sys.argv[1]), '\\u2192 \\udcff')"
    assert started_by("", trained, "-c", code, tmp_path/"page", **env) == (0, b"", "")
    assert (tmp_path/"page").read_bytes() == "→ \\udcff".encode()


@pytest.mark.promise("disk")
@pytest.mark.parametrize("words, file", [
    pytest.param(["grok_nb_report", "{run}", "--out", "{root}/x.html"], "x.html", marks=pytest.mark.slow),
    (["grok_nb_measure", "{run}", "--out", "{root}/new"], "accuracy.parquet")], ids=["report", "measure"])
def test_a_disk_that_takes_no_more(root, words, file):
    "Met by `ulimit -f`: one line that names the file, and no part of it. A report first looks inside, which fits."
    words = [w.format(run=finished(root)[0].path, root=root) for w in words]
    done = subprocess.run(["bash", "-c", f'ulimit -f {50 if "report" in words[0] else 2}; exec "$@"', "sh", sys.executable, *COMMAND, *words], capture_output=True, text=True,
                          env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT)))
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith(f"{file}: File too large\n")
    assert not [p for p in root.rglob("*") if p.name == file and "new" in p.parts or p.name == "x.html" or p.suffix == ".partial"]


@pytest.mark.promise("disk")
def test_a_working_folder_that_is_gone(tmp_path):
    code = "import os; os.mkdir('here'); os.chdir('here'); os.rmdir('../here'); from grok_nb.commands import grok_nb_runs; grok_nb_runs([])"
    env = {k: v for k, v in os.environ.items() if k != "GROK_NB_RUNS"} | dict(PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--runs" in done.stderr


# A process that is a command, and gets Ctrl-C when it begins to import a module, or when it ends.
INTERRUPTED = """
import atexit, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
class At:
    def find_spec(self, name, path=None, target=None):
        if name == where: interrupt()
where, *sys.argv = sys.argv[1:]
if where == "the end": atexit.register(interrupt)
sys.meta_path.insert(0, At())
from grok_nb import commands
getattr(commands, os.path.basename(sys.argv[0]))()
"""


@pytest.mark.promise("signals")
@pytest.mark.parametrize("where, words", [
    ("importlib.metadata", "runs"), ("fastcore.script", "runs"), ("grok_nb.see.formats", "runs"), ("pandas", "runs"), ("the end", "runs"),
    ("numpy", "train modular --preset smoke"), ("torch", "train modular --preset smoke"), ("tokenizers", "train modular --preset smoke")])
def test_interrupted_while_it_loads(trained, tmp_path, where, words):
    name, *words = words.split()
    env = os.environ | dict(GROK_NB_RUNS=str(tmp_path if words else trained), OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, where, f"bin/grok_nb_{name}", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr in ("", f"grok_nb_{name}: stopped\n"), done.stderr


# ---- what is sent ----

def test_what_is_sent_tells_nothing_of_the_machine(tmp_path, capsys, small_pictures):
    "Reports, as HTML and as Markdown, of runs and of a sweep, and checkpoints: no folder that a text or a tokenizer lies in."
    from grok_nb.sweeps import sweep
    from grok_nb.texts import FileTexts, train_tokenizer
    home, runs = tmp_path/"someuser"/"secret place", tmp_path/"runs"
    (home/"texts").mkdir(parents=True)
    for n in range(4): (home/"texts"/f"{n}.txt").write_text("\n<|endoftext|>\n".join(f"{i} and {n*i} are {n + i}." for i in range(300)))
    train_tokenizer(FileTexts([home/"texts"]), 300).save_pretrained(home/"words")
    fixed = dict(corpus=f"{home}/texts\n{home}/texts/0.txt", tokenizer=str(home/"words"), steps=8, warmup_steps=1, evaluate_every=2, checkpoints=1)
    table = sweep("corpus", "smoke", {}, (0, 1), "serial", runs, fixed=fixed, progress=False)
    found = [Run(runs/name) for name in table.run]
    shutil.rmtree(found[1].folder(8))
    (found[1].path/"failed.json").write_text(json.dumps(dict(error=f"corpus file {home}/texts/1.txt: no such file")))
    sent = []
    for out in ("r.html", "r.md"): sent.append(said(capsys, commands.grok_nb_report, *(r.path for r in found), "--out", tmp_path/out))
    for out in ("s.html", "s.md"): sent.append(said(capsys, commands.grok_nb_report, table.attrs["folder"], "--out", tmp_path/out))
    for text in map(str.strip, sent):
        page = open(text, encoding="utf-8").read()
        assert "0.txt" in page and ("sha256" in page and found[0].config.fingerprint in page or "corpus file 1.txt: no such file" in page)
        assert not re.search("someuser|secret place|" + re.escape(str(tmp_path)), page)
    for p in (p for p in found[0].path.glob("checkpoints/**/*") if p.is_file()):
        assert not re.search(b"someuser|secret place", p.read_bytes()), p
    assert "someuser" in (found[0].path/"config.json").read_text()


def test_a_panel_that_fails_tells_nothing_of_the_machine():
    from grok_nb.see.shown import failed
    for error in (InputError("pairs /srv/a user/b c/pairs.jsonl cannot be read"), FileNotFoundError(2, "No such file", "/srv/a user/pairs.jsonl"),
                  OSError("/srv/a user/b c/pairs.jsonl")):
        assert "pairs.jsonl" in failed(error, "drawn").reason and "user" not in failed(error, "drawn").reason


def test_train_without_words_is_its_help(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("GROK_NB_RUNS", str(tmp_path))
    commands.grok_nb_train([])
    assert capsys.readouterr().out.startswith("usage: grok_nb_train") and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", wings)
def test_presets_are_listed(name, capsys):
    commands.grok_nb_train([name, "--presets"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*studies[name].presets]
    for line, config in zip(lines, studies[name].presets.values()): assert f"{config.steps:,} steps of" in line and f"{config.n_parameters:,} parameters" in line


def test_a_run_says_how_to_make_another(trained, capsys):
    run = finished(trained)[0]
    for path in (run.path, run.path/"config.json"):
        commands.grok_nb_train(["--config", str(path), "--options"])
        told = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
        assert (told["p"], told["steps"], told["width"]) == ("5", "60", "16")
    commands.grok_nb_train(["--config", str(run.path), "--runs", str(run.path.parent)]) # trained already: the same run
    assert capsys.readouterr().out.startswith(f"{run.run_id}: finished")
    for words, says in [(["modular"], "STUDY"), (["--preset", "demo"], "--preset"), (["--corpus", "x"], "--corpus")]:
        with pytest.raises(SystemExit) as e: commands.grok_nb_train(["--config", str(run.path), *words])
        assert e.value.code == 2 and f"--config: holds everything that {says} says" in capsys.readouterr().err
    with pytest.raises(SystemExit): commands.grok_nb_train(["--config", str(run.path.parent/"none")])
    assert "is no run folder" in capsys.readouterr().err


@pytest.mark.parametrize("typed, meant", [("phase-cpu", "phase_cpu"), ("phase_cpu", "phase_cpu")])
def test_a_hyphen_is_an_underscore(typed, meant, capsys):
    commands.grok_nb_train(["modular", "--preset", typed, "--options"])
    assert dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())["steps"] == str(studies["modular"].presets[meant].steps)


def test_names_with_hyphens_are_found_in_sweeps_too(capsys, tmp_path):
    from grok_nb.sweeps import plan
    for typed in ("lr1e-3", "lr1e_3"): assert plan("copying", typed, seeds=(0, 1))[0][0] == studies["copying"].config("lr1e-3")


# ---- compare ----

def compared(trained, capsys, *words):
    runs = [str(r.path) for r in finished(trained) if r.preset != "custom"]
    commands.grok_nb_compare([*runs, "--runs", str(trained), *words])
    return capsys.readouterr().out


def test_a_comparison_is_that_of_its_curves(trained, tmp_path, capsys):
    from grok_nb.evidence import arrivals
    from grok_nb.probes import curve
    rows = json.loads(compared(trained, capsys, "--json", "--csv", str(tmp_path/"c.csv"), "--out", str(tmp_path/"c.svg")))
    groups = {p: {r.config.seed: curve(r.metrics(), **study.headline) for r in finished(trained) if r.preset == p} for p in ("demo", "control")}
    want = arrivals(groups, named="group").set_index("group")
    assert {row["group"]: row["at the end"] for row in rows} == want["at the end"].to_dict() and {row["seeds"] for row in rows} == {2}
    values = pd.read_csv(tmp_path/"c.csv")
    for (group, seed), part in values.groupby(["group", "seed"]): pd.testing.assert_series_equal(part.set_index("step")["value"], groups[group][seed], check_names=False)
    assert "control (2)" in (tmp_path/"c.svg").read_text() or (tmp_path/"c.svg").stat().st_size > 5000


def test_any_option_makes_the_groups(trained, capsys):
    assert [line.split("  ")[0].strip() for line in compared(trained, capsys, "--by", "n_id").splitlines()[1:]] == ["n_id = 8", "n_id = 16"]
    every = [str(r.path) for r in finished(trained)]
    commands.grok_nb_compare(every) # one has options of its own: whatever differs makes the groups
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 4 and "[too few seeds]" in said and "inf" not in said # of one seed or two there is no interval


@pytest.mark.parametrize("words, says", [
    (["--by", "n_ids"], "--by 'n_ids' is unknown: did you mean 'n_id'"),
    (["--by", "p"], "two runs of seed 0 with p = 5: they differ in n_id; name it with --by"),
    (["--curve", "unseen"], "--curve 'unseen' is unknown: did you mean 'unseen tasks'"),
    (["--out", "c.docx"], "must end in .png"), (["--out", "no/where/c.png"], "there is no folder"), (["--csv", "no/where/c.csv"], "--csv no/where/c.csv: there is no folder"),
])
def test_comparisons_that_are_refused(trained, capsys, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as e: compared(trained, capsys, *words)
    said = capsys.readouterr().err
    assert e.value.code == 2 and says in said and said.count("\n") == 1 and not [*tmp_path.iterdir()]


def test_a_run_without_an_evaluation_is_named(root, capsys):
    [new] = [r for r in map(Run, sorted(p.parent for p in root.glob("modular-*/config.json") if "s7" in p.parent.name))]
    with pytest.raises(SystemExit): commands.grok_nb_compare([str(new.path)])
    assert f"{new.run_id} has not been evaluated yet" in capsys.readouterr().err
