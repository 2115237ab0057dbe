"What is made here, in a browser without a network: a scrubber on a page, a report, the site; and the first tutorial in JupyterLab."
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from conftest import PATIENCE, ROOT, wait_for

from grok_nb import InputError, studies
from grok_nb.see import views as drawn
from grok_nb.see.offline import at_step
from grok_nb.see.report import html_page
from grok_nb.see.scrubber import Panel, Scrubber, View

WIDTHS = 1280, 390
EVIL = """</script><img src=x onerror=alert(1)>'"&<!--<script>alert(2)//"""


@pytest.fixture(scope="module")
def shots(tmp_path_factory, request):
    "The folder for screenshots: named by `GROK_NB_SCREENSHOTS`, else a temporary one."
    folder = Path(os.environ.get("GROK_NB_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled(): print(f"\nscreenshots: {folder}")


@pytest.fixture(scope="module")
def scrubber(short_runs): return studies["modular"].scrub(short_runs["modular"])


@pytest.fixture(scope="module")
def on_disk(scrubber, tmp_path_factory):
    "A page with a scrubber, as a file."
    path = tmp_path_factory.mktemp("page")/"scrubber.html"
    path.write_text(html_page("A scrubber", f"<h1>A scrubber</h1>{scrubber.html(10**8)}"), encoding="utf-8")
    return path.as_uri()


# What stands on the page now: of every scrubber, place and step as they are said, and the pictures.
STATE = """() => [...document.querySelectorAll('.gs')].map(root => { const range = root.querySelector('input'); return {
  place: +range.value, last: +range.max, said: root.querySelector('output').textContent, aria: range.getAttribute('aria-valuetext'),
  pictures: [...root.querySelectorAll('.gs-picture')].map(p => p.innerHTML)} })"""

# Which pictures of a scrubber are the given ones, as the browser writes them.
SAME = """frames => [...document.querySelectorAll('.gs-picture')].map((box, i) => {
  const svg = box.querySelector('svg > g:last-of-type'), wanted = (svg || box).cloneNode(false);
  wanted.innerHTML = frames[i];
  return (svg || box).innerHTML == wanted.innerHTML })"""


def frames_at(scrubber, place): return [scrubber.pictures(panel, next(iter(panel.choices)), [place])[0] for panel in scrubber.panels.values()]


def stands_at(page, scrubber, place):
    "Everything on the page is that of one place."
    [state] = page.evaluate(STATE)
    step = f"step {scrubber.positions[place]:,}"
    assert (state["place"], state["said"], state["aria"]) == (place, step, step)
    assert all(page.evaluate(SAME, frames_at(scrubber, place)))
    return state["pictures"]


def test_the_keyboard_moves_everything(opened, on_disk, scrubber):
    page, last = opened(offline=True), len(scrubber.positions) - 1
    page.goto(on_disk)
    stands_at(page, scrubber, scrubber.start)
    page.get_by_role("slider", name="checkpoint").focus()
    page.keyboard.press("Home")
    seen = [stands_at(page, scrubber, 0)]
    for place in range(1, last + 1):
        page.keyboard.press("ArrowRight")
        seen.append(stands_at(page, scrubber, place))
        assert seen[-1] != seen[-2]
    page.keyboard.press("ArrowLeft")
    assert stands_at(page, scrubber, last - 1) == seen[-2]
    page.keyboard.press("End")
    assert stands_at(page, scrubber, last) == seen[-1]


def drag(page, box, start, end):
    "From one place to another, as shares of the width of a box."
    y = box["y"] + box["height"]/2
    page.mouse.move(box["x"] + box["width"]*start, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"]*(start + end)/2, y, steps=4)
    page.mouse.move(box["x"] + box["width"]*end, y, steps=4)
    page.mouse.up()


def test_the_mouse_drags_the_slider(opened, on_disk, scrubber):
    page = opened(offline=True)
    page.goto(on_disk)
    box = page.get_by_role("slider").bounding_box()
    drag(page, box, .99, .01)
    first = stands_at(page, scrubber, 0)
    drag(page, box, .01, .5)
    middle = stands_at(page, scrubber, (len(scrubber.positions) - 1)//2)
    assert any(a != b for a, b in zip(first, middle)), "the pictures are others"


def test_play_pause_and_the_end(opened, on_disk, scrubber):
    page = opened(offline=True)
    page.clock.install(time=0)
    page.clock.pause_at(1) # from here on, its time is ours
    page.goto(on_disk)
    last, button, frame = len(scrubber.positions) - 1, page.locator(".gs-play"), 350 # milliseconds
    page.get_by_role("slider").press("End")
    button.click()
    assert button.inner_text() == "Pause"
    stands_at(page, scrubber, 0)
    page.clock.run_for(frame)
    stands_at(page, scrubber, 1)
    button.click()
    assert button.inner_text() == "Play"
    page.clock.run_for(10*frame)
    stands_at(page, scrubber, 1)
    button.click()
    page.clock.run_for((last - 1)*frame)
    assert button.inner_text() == "Pause"
    page.clock.run_for(frame)
    assert button.inner_text() == "Play"
    stands_at(page, scrubber, last)
    page.get_by_role("slider").press("Home")
    button.click()
    page.get_by_role("slider").press("End")
    assert button.inner_text() == "Play", "a hand on the slider stops it"


def test_what_is_chosen_is_shown(opened, on_disk, scrubber):
    page = opened(offline=True)
    page.goto(on_disk)
    names = [name for name, _ in scrubber.panels]
    at, panel = names.index("attention"), scrubber.panels["attention", 0]
    select = page.get_by_label("Where it attends: what is shown")
    assert select.locator("option").all_inner_texts() == [*panel.choices]
    before = page.evaluate(STATE)[0]["pictures"]
    for choice in [*panel.choices][1:]:
        select.select_option(choice)
        now = page.evaluate(STATE)[0]["pictures"]
        assert [i for i, (a, b) in enumerate(zip(before, now)) if a != b] == [at]
        frames = frames_at(scrubber, scrubber.start)
        frames[at] = panel.choices[choice][scrubber.positions[scrubber.start]]
        assert all(page.evaluate(SAME, frames))
    page.get_by_role("slider").press("Home")
    frames = frames_at(scrubber, 0)
    frames[at] = panel.choices[choice][scrubber.positions[0]]
    assert all(page.evaluate(SAME, frames)), "the choice stays when the slider moves"


def test_the_axis_changes(opened, on_disk):
    page = opened(offline=True)
    page.goto(on_disk)
    shown = lambda: page.evaluate("['linear', 'log'].filter(a => getComputedStyle(document.querySelector(`.gs-panel .gs-${a}`)).display != 'none')")
    button = page.locator(".gs-axis")
    for axis in ("linear", "log", "linear"):
        assert shown() == [axis] and button.inner_text() == f"{axis} axis"
        button.click()


def word_moves(page, word):
    "A word of the text is a button, for the keyboard too, and sets the slider to the checkpoint nearest to the step that it names."
    steps = json.loads(page.locator(".gs > script[type='application/json']").text_content())["steps"]
    nearest = min(steps, key=lambda step: abs(step - int(word.get_attribute("value"))))
    word.get_by_role("button").press("Enter")
    assert page.evaluate(STATE)[0]["said"] == f"step {nearest:,}"


def test_words_of_the_text_move_the_slider(opened, scrubber, tmp_path):
    first, *_, last = scrubber.positions
    path = tmp_path/"words.html"
    path.write_text(html_page("Words", f"<p>{at_step(last, 'the end')}</p>{scrubber.html(10**8)}<p>{at_step(first)}, {at_step(10**9, 'later')}, {at_step(math.inf)}</p>"))
    page = opened(offline=True)
    page.goto(path.as_uri())
    for words, place in {"the end": -1, f"step {first:,}": 0, "later": -1}.items():
        page.get_by_role("button", name=words).click()
        stands_at(page, scrubber, range(len(scrubber.positions))[place])
    for word in page.locator("data.gs-step").all()[:2]: word_moves(page, word)
    page.evaluate(f"document.body.insertAdjacentHTML('beforeend', `{at_step(last, 'put in later')}`)") # as JupyterLab does
    page.get_by_role("button", name="put in later").click()
    stands_at(page, scrubber, len(scrubber.positions) - 1)
    assert "never in this run" in page.inner_text("p:last-of-type") and page.locator("p button").count() == 3


def test_without_scripts_the_first_pictures_stand(opened, on_disk, scrubber):
    page = opened(java_script_enabled=False, offline=True)
    page.goto(on_disk)
    pictures = page.locator(".gs-picture > img")
    assert pictures.count() == len(scrubber.panels)
    for i, panel in enumerate(scrubber.panels.values()):
        assert pictures.nth(i).get_attribute("alt") == panel.alt
        assert pictures.nth(i).bounding_box()["height"] > 100
    assert page.locator(".gs output").inner_text() == f"step {scrubber.positions[scrubber.start]:,}"


def test_it_is_readable_in_the_dark(opened, on_disk):
    def light(colour): return sum(map(float, re.findall(r"[\d.]+", colour)[:3]))/765
    page = opened(color_scheme="dark", offline=True)
    page.goto(on_disk)
    colour = lambda selector, of: light(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{of}"))
    paper = colour("body", "backgroundColor")
    assert paper < .2 and colour(".gs-bar", "backgroundColor") < .2
    for words in (".gs output", ".gs h4", ".gs svg text", ".gs button", ".gs select"): assert colour(words, "color") > .7, words
    assert colour(".gs svg text", "fill") > .7 and colour(".gs option", "color") < .3


def test_it_fits_a_phone(opened, on_disk, scrubber):
    page = opened(viewport=dict(width=390, height=844), has_touch=True, offline=True)
    page.goto(on_disk)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for box in page.locator(".gs-panel").all():
        place = box.bounding_box()
        assert 0 <= place["x"] and place["x"] + place["width"] <= 390
    page.get_by_role("slider").press("Home")
    stands_at(page, scrubber, 0)


@pytest.mark.promise("injection")
def test_hostile_words_run_nothing(opened, short_runs, tmp_path):
    run = short_runs["modular"]
    table = pd.DataFrame([dict(step=s, layer=0, head=h, query=q, key=k, value=.5) for s in run.steps for h in range(2) for q in range(3) for k in range(q + 1)])
    def fails(shown, table): raise InputError(EVIL)
    hostile = [View("labels", EVIL, lambda shown, _: drawn.attention_panel(table, [EVIL]*3)), View("reason", "r", fails),
               View("choices", "c", lambda shown, _: Panel({EVIL: {0: "<g></g>"}, "b": {0: "<g></g>"}}, "", (10, 10), EVIL))]
    scrubber = Scrubber([run, run], hostile, names=[EVIL, "b"])
    (tmp_path/"hostile.html").write_text(html_page("h", scrubber.html()), encoding="utf-8")
    page = opened(offline=True)
    page.goto((tmp_path/"hostile.html").as_uri())
    page.get_by_role("slider").press("Home")
    page.locator(".gs select").first.select_option(index=1)
    assert page.locator(".gs img").count() == 0 and page.locator(".gs script").count() == 2
    assert EVIL in page.locator(".gs-missing").first.inner_text() and page.locator(".gs svg text").first.text_content() == EVIL
    assert page.locator(".gs select option").evaluate_all("all => all.map(o => o.value)").count(EVIL) == 2


# ---- a report, and the site ----

def every_scrubber_moves(page):
    sliders = page.get_by_role("slider", name="checkpoint").all()
    assert sliders
    for i, slider in enumerate(sliders):
        slider.press("Home")
        first = page.evaluate(STATE)[i]
        slider.press("End")
        last = page.evaluate(STATE)[i]
        assert (first["place"], last["place"]) == (0, last["last"]) and first["said"] != last["said"] == last["aria"]
        assert any(a != b for a, b in zip(first["pictures"], last["pictures"]))


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_opens_and_scrubs_offline(opened, short_report, shots, width):
    page = opened(viewport=dict(width=width, height=844), offline=True)
    page.goto(short_report.as_uri())
    every_scrubber_moves(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth)")
    page.screenshot(path=shots/f"report-{width}.png", full_page=True)


# Whether the last slider is what one touches in its middle.
REACHED = """() => { const slider = [...document.querySelectorAll('.gs input[type=range]')].at(-1), at = slider.getBoundingClientRect()
  return document.elementFromPoint(at.x + at.width/2, at.y + at.height/2) == slider }"""


@pytest.mark.parametrize("width", WIDTHS)
def test_scrubbers_of_the_site_move(opened, site, shots, width):
    with_one = [p for p in sorted(site.rglob("*.html")) if '<div class="gs"' in p.read_text(encoding="utf-8")]
    assert site/"tutorials"/"first_look.html" in with_one
    for path in with_one:
        page = opened(viewport=dict(width=width, height=844), offline=True)
        page.goto(path.as_uri())
        every_scrubber_moves(page)
        if page.locator(".gs").count() == 1:
            for word in page.locator("data.gs-step").all(): word_moves(page, word)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator(".gs-picture").last.scroll_into_view_if_needed()
        page.evaluate("new Promise(done => { scrollBy(0, -40); requestAnimationFrame(() => requestAnimationFrame(done)) })") # also after a step back
        assert page.evaluate(REACHED), "the slider stays in view, under nothing else"
        if path.stem == "first_look":
            page.locator(".gs").scroll_into_view_if_needed()
            page.screenshot(path=shots/f"first-look-{width}.png")
            page.screenshot(path=shots/f"first-look-whole-{width}.png", full_page=True)


class Anchors(HTMLParser):
    "Where a page's links lead, and what can be led to in it."
    def __init__(self, text):
        super().__init__()
        self.links, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[k] for k in ("id", "name") if given.get(k)}
        if tag == "a" and given.get("href"): self.links.append(given["href"])


def test_every_link_of_the_site_leads_somewhere(site):
    pages = {p.resolve(): Anchors(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc: continue
            to = (path.parent/unquote(parts.path)).resolve() if parts.path else path
            assert to.is_file(), f"{path.name}: {link}"
            if parts.fragment and to in pages: assert unquote(parts.fragment) in pages[to].names, f"{path.name}: {link}"


# ---- JupyterLab ----

NOTEBOOK = "nbs/tutorials/01_first_look.ipynb"


def shortened():
    "The first tutorial up to its scrubber, with a run of a few seconds."
    nb = json.loads((ROOT/NOTEBOOK).read_text(encoding="utf-8"))
    sources = ["".join(c["source"]) for c in nb["cells"]]
    end = next(i for i, s in enumerate(sources) if "study.scrub(" in s)
    for cell, source in zip(nb["cells"], sources):
        if "study.run(" not in source: continue
        short = source.replace("checkpoints=16", "checkpoints=16, steps=200, evaluate_every=40")
        assert short != source
        cell["source"] = short.splitlines(True)
    nb["cells"] = [c | dict(outputs=[]) if c["cell_type"] == "code" else c for c in nb["cells"][:end + 1]]
    return nb


class Lab:
    "A JupyterLab of our own, started as `make lab` starts it."
    def __init__(self, root, home):
        self.root, self.token = root, "watched"
        with socket.socket() as s: s.bind(("127.0.0.1", 0)); self.port = s.getsockname()[1]
        self.settings = home/"config"/"lab"/"user-settings"/"@jupyterlab"
        self.set("apputils-extension/notification", fetchNews="false", checkForUpdates=False)
        paths = dict(HOME=home, JUPYTER_CONFIG_DIR=home/"config", JUPYTER_DATA_DIR=home/"data", JUPYTER_RUNTIME_DIR=home/"runtime", IPYTHONDIR=home/"ipython")
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {k: str(v) for k, v in paths.items()} | dict(PYTHONPATH=path, OMP_NUM_THREADS="1")
        hook = re.search(r"^\tjupyter lab (--ContentsManager\S+)", (ROOT/"Makefile").read_text(), re.M)[1]
        subprocess.run([sys.executable, "-m", "jupyter", "trust", NOTEBOOK], cwd=root, env=self.env, check=True, capture_output=True)
        options = [hook, "--no-browser", "--allow-root", f"--port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
                   "--LabApp.expose_app_in_browser=True", "--ServerApp.ip=127.0.0.1"]
        self.log = (home/"lab.log").open("w+")
        self.process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], cwd=root, env=self.env, stdout=self.log, stderr=self.log)
        try: wait_for(self.answers, "JupyterLab", every=.2)
        except AssertionError: self.stop(); raise

    def answers(self):
        assert self.process.poll() is None, f"JupyterLab did not start:\n{self.said()[-2000:]}"
        try: return self.ask("api/status")
        except OSError: return None

    def set(self, plugin, **settings):
        path = self.settings/f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))

    def ask(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", method=method, headers=dict(Authorization=f"token {self.token}"))
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or "null")

    def cpu_seconds(self):
        "Of the server and its kernels, so far."
        import psutil # which JupyterLab's kernel needs, too
        server = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return sum(t.user + t.system for t in times)

    def said(self): self.log.flush(); return Path(self.log.name).read_text()

    def open(self, page):
        "The notebook in a page, all of it loaded."
        page.goto(f"http://127.0.0.1:{self.port}/lab/tree/{NOTEBOOK}?token={self.token}&reset")
        page.wait_for_function("window.jupyterapp")
        page.evaluate("jupyterapp.restored")
        page.wait_for_function(
            "() => window.panel = [...jupyterapp.shell.widgets('main')].find(w => w.context)")
        page.evaluate("panel.context.ready")

    def stop(self):
        self.process.terminate() # it ends its kernels, and itself
        try: self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired: self.process.kill()
        self.log.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    pytest.importorskip("jupyterlab")
    root = tmp_path_factory.mktemp("lab")/"clone"
    (root/NOTEBOOK).parent.mkdir(parents=True)
    shutil.copy(ROOT/"settings.ini", root)
    (root/NOTEBOOK).write_text(json.dumps(shortened()), encoding="utf-8")
    lab = Lab(root, tmp_path_factory.mktemp("home"))
    yield lab
    lab.stop()


# Notes when a key was pressed, and when words or pictures of the widgets changed after it.
WATCH = """() => { window.moved = {};
  document.addEventListener('keydown', () => { moved = {pressed: performance.now()} }, true);
  new MutationObserver(changes => {
    if (!changes.some(c => (c.target.closest || (() => 0)).call(c.target, '.widget-html-content'))) return;
    moved.first ??= performance.now(); moved.last = performance.now() })
    .observe(document.querySelector('.jp-OutputArea .gs'), {subtree: true, childList: true, characterData: true}); }"""
PICTURES = "() => [...document.querySelectorAll('.jp-OutputArea .gs-panel .widget-html-content')].map(p => p.innerHTML)"


@pytest.fixture
def tab(browser, lab):
    "Opens a tab of JupyterLab; at the end no script may have failed, and nothing been asked for elsewhere."
    wrong, tabs = [], []
    def failed(error): # but for what JupyterLab says if its kernel is shut down before it has answered it all
        if "Canceled future for create_subshell_request message" not in str(error): wrong.append(str(error))
    def new(width):
        page = browser.new_page(viewport=dict(width=width, height=900))
        page.set_default_timeout(1000*PATIENCE)
        page.on("pageerror", failed)
        page.on("request", lambda r: r.url.startswith((f"http://127.0.0.1:{lab.port}/", f"ws://127.0.0.1:{lab.port}/", "data:", "blob:")) or wrong.append(r.url))
        tabs.append(page)
        return page
    yield new
    for page in tabs: page.close()
    assert not wrong


@pytest.mark.slow
def test_the_first_tutorial_in_jupyterlab(lab, tab, shots):
    page = tab(1280)
    lab.open(page)
    page.evaluate("panel.sessionContext.ready")
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    handle = page.locator(".gs .widget-slider .noUi-handle")
    handle.wait_for()
    page.wait_for_function(f"({PICTURES})().filter(p => p.includes('<svg')).length == 3")
    step = page.locator(".gs .widget-html-content b", has_text="step")
    last, pictures = step.inner_text(), page.evaluate(PICTURES)
    assert last == "step 200"

    handle.scroll_into_view_if_needed()
    box, track = handle.bounding_box(), page.locator(".gs .noUi-base").bounding_box()
    page.mouse.move(box["x"] + box["width"]/2, box["y"] + box["height"]/2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"]*.4, box["y"] + box["height"]/2, steps=8)
    page.mouse.up()
    page.wait_for_function(f"old => ({PICTURES})().filter((p, i) => p != old[i]).length >= 2", arg=pictures)
    assert step.inner_text() != last
    page.screenshot(path=shots/"lab-1280.png")

    select = page.locator(".gs .widget-dropdown select:visible").last
    chosen, before = select.input_value(), page.evaluate(PICTURES)
    assert chosen, "what is shown is named"
    select.select_option(index=1)
    page.wait_for_function(f"old => ({PICTURES})().filter((p, i) => p != old[i]).length == 1", arg=before)

    spent = lab.cpu_seconds()
    write_latency(shots/"lab-latency.txt", moves := latency(page, handle))
    assert (lab.cpu_seconds() - spent)/len(moves) < 1
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("!panel.context.model.dirty")
    page.set_viewport_size(dict(width=390, height=844))
    page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
    page.wait_for_function("jupyterapp.shell.leftCollapsed")
    handle.scroll_into_view_if_needed()
    page.screenshot(path=shots/"lab-390.png")
    page.close()

    saved = json.loads((lab.root/NOTEBOOK).read_text(encoding="utf-8"))
    [shown] = [o for o in saved["cells"][-1]["outputs"] if "data" in o] # a warning may stand beside it
    assert {*shown["data"]} == {"text/html", "text/plain"} and '<div class="gs"' in "".join(shown["data"]["text/html"])
    assert "widgets" not in saved["metadata"] and not any(c["metadata"] for c in saved["cells"])
    for session in lab.ask("api/sessions"): lab.ask(f"api/sessions/{session['id']}", "DELETE")

    page = tab(1280)
    lab.open(page)
    page.evaluate("panel.sessionContext.ready.then(() => panel.sessionContext.shutdown())")
    page.wait_for_function("panel.sessionContext.hasNoKernel")
    assert not lab.ask("api/sessions") and not lab.ask("api/kernels")
    slider = page.locator(".jp-OutputArea .gs input[type=range]")
    slider.wait_for()
    page.wait_for_function("document.querySelector('.jp-OutputArea .gs').dataset.on") # its script runs: the notebook is trusted still
    titles = page.evaluate("""[...document.querySelectorAll('.jp-OutputArea .gs-panel')].map(p => {
        const title = p.querySelector('h4 > span:not(.numbering-entry)').getBoundingClientRect(); return [title.left - p.getBoundingClientRect().left, p.firstChild.outerHTML] })""")
    assert all(abs(left) < 2 for left, _ in titles), titles
    slider.press("Home")
    [first] = page.evaluate(STATE)
    slider.press("End")
    [end] = page.evaluate(STATE)
    assert first["said"] == "step 0" and end["said"] == "step 200" and any(a != b for a, b in zip(first["pictures"], end["pictures"]))
    slider.scroll_into_view_if_needed()
    page.screenshot(path=shots/"lab-saved-1280.png")
    assert not lab.ask("api/kernels"), "all of it without a kernel"


def latency(page, handle):
    "Milliseconds from a key on the slider to the last picture of its checkpoint, for 48 moves; and from that key to the first change."
    page.evaluate(WATCH)
    step, found = page.locator(".gs .widget-html-content b", has_text="step"), []
    places = page.evaluate("document.querySelector('.gs .noUi-handle').getAttribute('aria-valuemax')")
    labels = "[...document.querySelectorAll('.gs .widget-html-content b')]"
    shown = f"{labels}.find(b => b.textContent.includes('step')).textContent"
    handle.press("Home")
    page.wait_for_function(f"{shown} == 'step 0'")
    for i in range(48):
        before = step.inner_text()
        handle.press("ArrowRight" if i//round(float(places)) % 2 == 0 else "ArrowLeft")
        page.wait_for_function(f"old => {shown} != old && performance.now() - moved.last > 150", arg=before)
        found.append(page.evaluate("[moved.last - moved.pressed, moved.first - moved.pressed]"))
    return found


def write_latency(path, found):
    "Median and 95 % of the moves, with how busy the machine was."
    lines = [f"{name}: median {pd.Series(of).median():.0f} ms, 95 % within {pd.Series(of).quantile(.95):.0f} ms"
             for name, of in zip(("all pictures", "first change"), zip(*found))]
    path.write_text("\n".join([f"JupyterLab, {len(found)} moves of the slider, from the key to the page", *lines,
                               f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"]) + "\n", encoding="utf-8")
