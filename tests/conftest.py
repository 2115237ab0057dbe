"Fixtures that every test may ask for."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

# A shell that starts a job in the background has it ignore Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"): signal.signal(signal.SIGHUP, signal.SIG_DFL) # which `nohup` has ignored

# How long an example takes says how busy the machine is, not whether it is right.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Seconds to wait for anything at all: enough on a machine that is busy with other things; what takes longer
# hangs.
PATIENCE = 600

ROOT = Path(__file__).resolve().parent.parent
MADE = {".git", ".venv", "_docs", "_proc", "build", "dist", "runs", "__pycache__", ".pytest_cache", ".hypothesis", ".ipynb_checkpoints"}


def wait_for(condition, what, seconds=PATIENCE, every=.01):
    "The first true value of `condition()`."
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} seconds in vain for {what}"
        time.sleep(every)
    return value


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


def without_scrubbers(text):
    "A page without its scrubbers, which refer to nothing outside themselves."
    scrubber = re.compile(r'<div class="gs" id=.*?</script></div>', re.S)
    for found in scrubber.findall(text):
        assert not re.search(r"https?://|<link|<iframe|url\(|@import", found.replace("http://www.w3.org/2000/svg", ""))
        assert found.count("<script") == 2
    return scrubber.sub("", text)


@pytest.fixture(autouse=True)
def no_figures_left_open():
    "What another test has drawn and not closed is none of this one's."
    if "matplotlib.pyplot" in sys.modules: sys.modules["matplotlib.pyplot"].close("all")


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


@pytest.fixture
def small_pictures(monkeypatch):
    "Reports whose figures are drawn once, small and without a layout, which else takes most of the time; what was drawn."
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image
    from grok_nb.see import report
    picture, drawn = report.picture, []
    def small(fig, alt, dpi=180):
        drawn.append(alt)
        fig.set_layout_engine("none")
        fig.set_dpi(20)
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        fig.savefig = lambda file, **_: Image.fromarray(np.array(canvas.buffer_rgba())).save(file, "webp")
        return picture(fig, alt, 20)
    monkeypatch.setattr(report, "picture", small)
    return drawn


@pytest.fixture
def small_disk(tmp_path):
    "A file system with little room; only an administrator can make one."
    folder = tmp_path/"disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


# ---- what is promised, and which test has seen it ----

PROMISES = ROOT/"nbs"/"promises.json"
SEEN = {} # test → kind of attack, attacks survived, what the test does


def pytest_addoption(parser):
    parser.addoption("--write-promises", action="store_true", help="write what the tests survived to nbs/promises.json")


@pytest.fixture
def survived(request, record_property):
    "Note the kind of attack, and how many a test has survived."
    def note(kind, attacks): record_property("survived", [kind, attacks, request.function.__doc__])
    return note


def pytest_runtest_logreport(report):
    if report.when != "call" or not report.passed: return
    for kind, attacks, what in (value for name, value in report.user_properties if name == "survived"):
        test = SEEN.setdefault(report.nodeid.split("[")[0] + " slow"*("slow" in report.keywords), dict(kind=kind, attacks=0, what=what))
        test["attacks"] += attacks


def pytest_sessionfinish(session):
    "Compare what the tests survived with what the page of promises says; who attacks at random may do a quarter less."
    config = session.config
    if hasattr(config, "workerinput") or not SEEN: return
    written = json.loads(PROMISES.read_text(encoding="utf-8")) if PROMISES.exists() else {}
    if config.option.write_promises:
        text = json.dumps(dict(sorted((written | SEEN).items())), indent=1, ensure_ascii=False)
        PROMISES.write_text(text + "\n", encoding="utf-8")
    elif not config.option.keyword and not any("::" in a for a in config.args):
        less = [t for t, seen in SEEN.items() if seen["attacks"] < .75*written.get(t, dict(attacks=float("inf")))["attacks"]]
        if less:
            session.exitstatus = 1
            print(f"\nnbs/promises.json says more than was seen of: {', '.join(less)}; make test-all ARGS=--write-promises")


@pytest.fixture(scope="session")
def data_dir():
    "The folder with real text and minimal pairs, named by `GROK_NB_DATA`."
    folder = os.environ.get("GROK_NB_DATA")
    if not folder: pytest.skip("needs real text: set GROK_NB_DATA to its folder")
    if not Path(folder).is_dir(): pytest.skip(f"needs real text: GROK_NB_DATA={folder} is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    "Name → a folder that all processes of this test run share, while holding it."
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    @contextmanager
    def hold(name):
        with FileLock(base/f"{name}.lock"): yield base/name
    return hold


@pytest.fixture(scope="session")
def short_runs(shared):
    "A finished run of each study, of a few steps, with what its scrubber needs measured; not to be changed."
    from grok_nb import studies
    short = dict(steps=48, evaluate_every=8, checkpoints=4, checkpoint_on_change=0, warmup_steps=4, width=32, batch_size=16)
    small = dict(modular=dict(n_eval=64, depth=2), copying=dict(test_samples=20), grammar=dict(pairs_each=12))
    with shared("short") as root:
        runs = {name: studies[name].run("smoke", root, **short | fewer) for name, fewer in small.items()}
        for name, run in runs.items(): studies[name].scrub(run).measure()
    return runs


@pytest.fixture(scope="session")
def short_report(short_runs, shared):
    "A report of one of them."
    from grok_nb.see.report import report
    with shared("report.html") as path: return path if path.exists() else report([short_runs["copying"]], path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "The whole site takes more than a minute to build: what needs it is slow."
    for item in items:
        for mark in item.iter_markers("promise"): item.user_properties.append(("survived", [mark.args[0], 1, item.function.__doc__]))
        if "site" in getattr(item, "fixturenames", ()): item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def site(shared):
    "The site as `make docs` builds it, from a copy of the repository. A link that leads nowhere stops the build."
    with shared("checkout") as root:
        if (root/"_docs").exists(): return root/"_docs"
        for p in tracked_files():
            (root/p).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT/p, root/p, follow_symlinks=False)
        env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
        done = subprocess.run([sys.executable, "-m", "grok_nb.docs.site", "docs"], cwd=root, env=env, capture_output=True, text=True)
        if done.returncode: pytest.fail(done.stderr[-2000:], pytrace=False)
        return root/"_docs"


@pytest.fixture(scope="module")
def browser():
    "Chromium."
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium: pytest.skip("needs Chromium")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, timeout=1000*PATIENCE,
                                    args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    "Opens a page of the browser; at the end nothing may have failed, been logged as an error or come from outside."
    wrong, opened = [], []
    def new(**options):
        page = browser.new_page(**options)
        page.set_default_timeout(1000*PATIENCE)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("console", lambda m: m.type == "error" and wrong.append(m.text))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.on("dialog", lambda d: (wrong.append(f"dialog: {d.message}"), d.dismiss()))
        def failed(r): # not of a picture that was still on its way when the next page was opened
            if "ERR_ABORTED" not in (r.failure or ""): wrong.append(f"failed: {r.url} ({r.failure})")
        page.on("requestfailed", failed)
        opened.append(page)
        return page
    yield new
    for page in opened: page.close()
    assert not wrong
