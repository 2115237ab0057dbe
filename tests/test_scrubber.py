"The scrubber without a browser: pictures against the tables they are drawn from, what is kept of them on a page, widgets, and what goes wrong."
import io
import json
import os
import re
import shutil
import time
from base64 import b64decode
from html import escape, unescape
from html.parser import HTMLParser
from threading import Event

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import PATIENCE
from hypothesis import given, settings, strategies as st
from PIL import Image

from grok_nb import InputError, studies
from grok_nb.runs import Checkpoint, Context, Run
from grok_nb.copying import views as of_copying
from grok_nb.grammar import judge, views as of_grammar
from grok_nb.modular import views as of_modular
from grok_nb.see import scrubber as machine, shown as of_series, views as drawn
from grok_nb.see.scrubber import Panel, Scrubber, Shown, View, find_view, view
from grok_nb.see.shown import as_html
from grok_nb.series import Series

STUDIES = "modular", "copying", "grammar"
EVIL = """</script><img src=x onerror=alert(1)>'"&<!--<script>"""


@pytest.fixture(scope="module")
def scrubbers(short_runs):
    "Study → a scrubber over a run of it."
    return {name: studies[name].scrub(run) for name, run in short_runs.items()}


@pytest.fixture
def copied_run(short_runs, tmp_path):
    "The modular run to do anything with."
    return Run(shutil.copytree(short_runs["modular"].path, tmp_path/short_runs["modular"].path.name))


@pytest.fixture
def no_model(monkeypatch):
    "No checkpoint can be opened."
    def model(self): raise AssertionError("a model was opened")
    monkeypatch.setattr(Checkpoint, "model", property(model))


def packed(page):
    "What the script of a page has: steps and panels."
    [data] = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    return json.loads(data)


def shades(picture):
    "The images inside a picture as RGBA arrays."
    data = re.findall(r"href='data:image/png;base64,([^']+)'", picture)
    return [np.array(Image.open(io.BytesIO(b64decode(d))).convert("RGBA")) for d in data]


def at(frames, step):
    "The picture of the last step up to this one; what training measures need not fall on checkpoints."
    return frames[max(s for s in frames if s <= step)]


def bold(picture): return [unescape(words) for words in re.findall(r"<text [^>]*font-weight='600'>([^<]+)</text>", picture)]
def told(name="told", **more): return View(name, "Told", lambda shown, table: Panel({s: f"<p>{shown.label} {s}</p>" for s in shown.steps}), **more)


def rows_of(run, values):
    "A table of the run's headline curve alone."
    return pd.DataFrame([dict(run=run.run_id, step=step, value=value, **run.study.headline) for step, value in values.items()])


class Tags(HTMLParser):
    "All tags of a page with their attributes, in the order they come."
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes): self.found.append((tag, dict(attributes)))


# ---- pictures are what the tables say ----

@pytest.mark.parametrize("name", STUDIES)
def test_every_view_of_a_study_draws_every_checkpoint(scrubbers, short_runs, name):
    scrubber, run = scrubbers[name], short_runs[name]
    assert scrubber.positions == run.steps and len(scrubber.positions) >= 4
    assert [v.name for v in scrubber.views] == [*run.study.views]
    for key, panel in scrubber.panels.items():
        assert panel.frames and not panel.reason, f"{key}: {panel.reason}"
        for choice, frames in panel.choices.items():
            assert min(frames) == 0 and max(frames) == run.steps[-1] and len(frames) >= len(run.steps) and all(frames.values()), f"{key}, {choice}"
        assert panel.alt


@pytest.mark.parametrize("name", STUDIES)
def test_attention_is_as_dark_as_the_table_says(scrubbers, short_runs, name):
    run, panel = short_runs[name], scrubbers[name].panels["attention", 0]
    ids, labels = drawn.sequence(run)
    for step in run.steps[::len(run.steps) - 1]:
        table = pd.DataFrame(drawn.attention_rows(run.at(step).model, ids=ids))
        for (layer, head), rows in table.groupby(["layer", "head"]):
            [picture] = shades(panel.choices[f"layer {layer}, head {head}"][step])
            values = np.zeros((len(ids), len(ids)))
            values[rows["query"], rows["key"]] = rows["value"]
            assert (np.abs(picture[..., 3]/255 - values) <= .5/24 + 1/255).all()
            assert (picture[..., :3][picture[..., 3] > 0] == [0x00, 0x72, 0xb2]).all()
    for label in labels: assert f">{escape(label)}</text>" in panel.base


@pytest.mark.parametrize("name", STUDIES)
def test_the_legend_of_the_curves_says_what_was_measured(scrubbers, short_runs, name):
    run, panel = short_runs[name], scrubbers[name].panels["curves", 0]
    table, checked = run.metrics(), 0
    for step in run.steps:
        said = dict(zip(re.findall(r"<text x='60' [^>]*>([^<]+)</text>", panel.frames[step]), bold(panel.frames[step]), strict=True))
        for label, where in run.study.curves.items():
            if not {*where} <= {*table}: continue
            rows = table[(table[[*where]] == [*where.values()]).all(axis=1) & (table["step"] <= step)]
            if len(rows): assert said[escape(label)] == f"{rows.sort_values('step')['value'].iloc[-1]:.3f}"; checked += 1
    assert checked >= 2*len(run.steps)


def test_the_grid_has_the_colours_of_its_cells(scrubbers, short_runs):
    run = short_runs["modular"]
    context = Context(run.config, run.stream, run.steps[-1], 0, "cpu")
    table = pd.DataFrame(of_modular.grid_rows(run.at(run.steps[-1]).model, context))
    colours = {(1, 1): (0x00, 0x72, 0xb2, 255), (1, 0): (0x00, 0x9e, 0x73, 255), (0, 1): (0xd5, 0x5e, 0x00, 255)}
    for task, rows in table.groupby("task"):
        frame = scrubbers["modular"].panels["grid", 0].choices[f"task {task}"][run.steps[-1]]
        shots = sorted(rows["shot"].unique())
        pictures, shares = shades(frame), bold(frame)
        assert len(pictures) == len(shots)
        for picture, share, shot in zip(pictures, shares, shots):
            cells = rows[rows["shot"] == shot].pivot(index=["x", "y"], columns="metric", values="value")
            assert share == f"{cells['right'].mean():.0%} right"
            for (x, y), cell in cells.iterrows():
                seen, wanted = picture[run.config.p - 1 - y, x], colours.get((int(cell["right"]), int(cell["matchable"])))
                assert tuple(seen) == wanted if wanted else seen[3] == 0


def test_numbers_in_heads_are_those_of_the_table(scrubbers, short_runs):
    run, panel = short_runs["copying"], scrubbers["copying"].panels["heads", 0]
    table = run.metrics()
    rows = table[(table["probe"] == "induction") & (table["metric"] == "previous_token") & (table["step"] == run.steps[-1])].sort_values(["layer", "head"])
    words = re.findall(r"<text [^>]*>([-.\d]+)</text>", panel.choices["previous-token attention"][run.steps[-1]])
    assert [float(w) for w in words] == [round(v, 2) for v in rows["value"]]
    [picture] = shades(panel.choices["previous-token attention"][run.steps[-1]])
    assert np.abs(picture[..., 3].ravel()/255 - .75*rows["value"].abs()).max() <= .5/24 + 1/255


def test_the_sample_colours_what_the_model_says(scrubbers, short_runs):
    run = short_runs["copying"]
    for step in run.steps:
        rows = pd.DataFrame(of_copying.copied(run.at(step).model, Context(run.config, run.stream, step, 0, "cpu")))
        wide = rows.pivot(index=["query", "place"], columns="metric", values="value").astype(int)
        right = wide["wanted"] == wide["said"]
        frame = scrubbers["copying"].panels["sample", 0].frames[step]
        seen = re.findall(r'<b class="(right|wrong)">(\d+)</b>', frame)
        assert seen == [("right" if ok else "wrong", str(said)) for ok, said in zip(right, wide["said"])]
        assert f"<b>{right.groupby('query').all().sum()} of {right.index.get_level_values('query').nunique()} copied whole" in frame


def test_flips_are_counted_right(scrubbers, short_runs):
    run = short_runs["grammar"]
    right = {}
    for step in run.steps:
        context = Context(run.config, run.stream, step, 0, "cpu")
        right[step] = pd.DataFrame(judge.margins(run.at(step).model, context)).set_index("pair")["value"] > 0
    for last, step in zip([None, *run.steps], run.steps):
        frame = scrubbers["grammar"].panels["flips", 0].frames[step]
        assert f"<b>{right[step].mean():.1%} of {len(right[step]):,} pairs" in frame
        if last is None: assert "have become" not in frame; continue
        for word, turned in (("right", right[step] & ~right[last]), ("wrong", right[last] & ~right[step])):
            assert f"{turned.sum():,} have become {word}" in frame
            assert ("<li>" in frame.split(f"have become {word}")[1].split("</div>")[0]) == turned.any()


def test_a_band_stands_where_the_headline_rises(short_runs):
    run = short_runs["modular"]
    table = rows_of(run, {s: .2 if s <= 500 else .9 for s in range(0, 1001, 20)})
    shown = Shown(run, table=table)
    [moved] = shown.moved
    assert (moved.midpoint.lo, moved.midpoint.hi) == (500, 520)
    x = {axis: (lambda s, at=at: 38 + 354*at(s)) for axis, at in drawn.clocks([*table["step"]]).items()}
    base = drawn.curves(shown, table).base
    for axis in x:
        inside = base.split(f"class='gs-{axis}'")[1].split("</g>")[0]
        bands = [(float(a), float(w)) for a, w in re.findall(r"<rect x='([\d.]+)' [^>]*?width='([\d.]+)'[^>]*fill='#E69F00'", inside)]
        assert any(a == pytest.approx(x[axis](500), abs=.1) and w == pytest.approx(max(1, x[axis](520) - x[axis](500)), abs=.1) for a, w in bands)
    assert drawn.curves(Shown(run, table=table.assign(value=.2)), table.assign(value=.2)).base.count("#E69F00") == 0


def test_the_slider_starts_at_the_transition(short_runs):
    run = short_runs["modular"]
    step = run.steps[1]
    table = rows_of(run, {s: .2 if s <= step else .9 for s in range(0, run.steps[-1] + 1)})
    assert Scrubber(run, [told()], table=table).positions[Scrubber(run, [told()], table=table).start] == step
    assert Scrubber(run, [told()]).start == len(run.steps) - 1
    assert Scrubber(run, [told()], start=0).start == 0


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30, unique=True))
@settings(max_examples=100)
def test_both_clocks_go_forward_from_0_to_1(steps):
    for at in drawn.clocks(steps).values():
        places = [at(s) for s in sorted(steps)]
        assert all(0 <= p <= 1 for p in places)
        if max(steps): assert all(a < b for a, b in zip(places, places[1:])) and places[-1] == pytest.approx(1)


# ---- which picture stands where ----

def thinned_run(run, to, keep):
    "A copy of a run that has some of its checkpoints only."
    copy = Run(shutil.copytree(run.path, to))
    for step in copy.steps:
        if step not in keep: shutil.rmtree(copy.folder(step))
    return copy


def test_a_place_shows_the_last_checkpoint_up_to_there(short_runs, tmp_path):
    run = short_runs["modular"]
    steps = run.steps
    other = thinned_run(run, tmp_path/"other", {steps[0], steps[2], steps[-1]})
    scrubber = Scrubber([run, other], [told()], names=["one", "other"])
    assert scrubber.positions == steps
    for key, label, known in ((("told", 0), "one", steps), (("told", 1), "other", other.steps)):
        pictures = scrubber.pictures(scrubber.panels[key], "", range(len(steps)))
        assert pictures == [f"<p>{label} {max(k for k in known if k <= step)}</p>" for step in steps]
    data = packed(scrubber.html())
    assert data["steps"] == steps and [p["choices"][""]["at"] for p in data["panels"]] == [[*range(len(steps))], [0, 0, *[1]*(len(steps) - 3), 2]]
    live = scrubber.live
    for place, step in enumerate(steps):
        live.slider.value = place
        assert live.boxes["told", 1]["picture"].value == f"<p>other {max(k for k in other.steps if k <= step)}</p>"


@pytest.mark.parametrize("name", STUDIES)
def test_no_picture_is_lost_on_a_page(scrubbers, name):
    scrubber = scrubbers[name]
    data = packed(scrubber.html(10**8))
    assert data["steps"] == scrubber.positions
    for (key, panel), on_page in zip(scrubber.panels.items(), data["panels"], strict=True):
        assert [*on_page["choices"]] == [str(c) for c in panel.choices]
        for choice, frames in panel.choices.items():
            kept = on_page["choices"][str(choice)]
            assert [kept["frames"][i] for i in kept["at"]] == [at(frames, step) for step in scrubber.positions], key
            assert len({*kept["frames"]}) == len(kept["frames"]), "each is written once"


def test_a_page_is_thinned_and_keeps_its_ends(short_runs):
    run = short_runs["modular"]
    start = run.steps[1]
    big = View("big", "Big", lambda shown, table: Panel({s: f"{s}" + "x"*10_000 for s in shown.steps}))
    scrubber = Scrubber(run, [big], start=start)
    whole, thin = scrubber.html(), scrubber.html(45_000)
    assert packed(whole)["steps"] == run.steps
    kept = packed(thin)["steps"]
    assert len(thin) < len(whole) and {start, run.steps[-1]} <= {*kept} < {*run.steps}
    assert f'value="{kept.index(start)}" aria-label="checkpoint" aria-valuetext="step {start:,}"' in thin
    assert packed(scrubber.html(1))["steps"], "a limit that cannot be kept ends all the same"


@pytest.mark.parametrize("name", STUDIES)
def test_a_page_stands_alone_and_is_the_same_twice(scrubbers, short_runs, name):
    page = scrubbers[name].html()
    again = studies[name].scrub(Run(short_runs[name].path)).html()
    assert page == again
    said = re.sub(r"base64,[\w+/=]+", "", page).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[\w.-]+\.\w|url\(|@import|fetch\(|XMLHttp|import\(", said)
    for tag, attributes in Tags(page).found:
        assert tag not in ("link", "iframe", "object", "base")
        for key in ("src", "href", "xlink:href", "action", "data", "srcset"): assert attributes.get(key, "data:").startswith("data:")
    assert page.count("</script>") == 2 and page.startswith('<div class="gs"') and page.endswith("</div>")


# ---- nothing from data is markup ----

@pytest.mark.promise("injection")
def test_hostile_words_stay_words(short_runs):
    run, n = short_runs["modular"], 3
    table = pd.DataFrame([dict(step=s, layer=0, head=h, query=q, key=k, value=.5) for s in run.steps for h in range(2) for q in range(n) for k in range(q + 1)])
    hostile = View("hostile", EVIL, lambda shown, _: drawn.attention_panel(table, [EVIL]*n))
    chosen = View("chosen", "c", lambda shown, _: drawn.heads_panel(table.assign(choice=EVIL)[table["key"].eq(0) & table["query"].eq(0)]))
    def fails(shown, _): raise InputError(EVIL)
    broken = View("broken", "b", fails)
    alt = View("alt", "a", lambda shown, _: Panel({0: "<g></g>"}, "", (10, 10), EVIL))
    scrubber = Scrubber([run, run], [hostile, chosen, broken, alt], names=[EVIL, "b"])
    page = scrubber.html()
    tags = Tags(page).found
    assert page.count("</script>") == 2 and "<!--" not in page and sum(t == "script" for t, _ in tags) == 2
    assert not [t for t, a in tags if "onerror" in a or a.get("src") == "x"]
    for on_page in packed(page)["panels"]:
        if not on_page: continue
        for part in [on_page["outer"], *(f for c in on_page["choices"].values() for f in c["frames"])]:
            assert not [t for t, a in Tags(part).found if t in ("script", "img") or "onerror" in a]
    box = scrubber.live.boxes["hostile", 0]
    for words in (box["picture"].value, box["all"].children[0].children[0].value, scrubber.live.boxes["broken", 0]["picture"].value):
        assert "<img" not in words and "<script" not in words and "&lt;" in words


@pytest.mark.promise("injection")
def test_hostile_sentences_stay_words():
    pairs = pd.DataFrame([dict(pair=0, paradigm="p", sentence_good=f"a {EVIL}", sentence_bad="a b", exposed=False)])
    found = of_grammar._examples(pairs)
    assert {t for t, _ in Tags(found).found} <= {"ul", "li", "span", "mark"}
    assert EVIL in unescape(re.sub("</?(mark|span|li|ul)[^>]*>", "", found))
    assert of_grammar._differing("the dogs run", "the dogs runs") == "the dogs <mark>run</mark>"


# ---- measured once ----

def test_what_is_measured_is_not_measured_again(scrubbers, short_runs, no_model):
    for name in STUDIES:
        fresh = studies[name].scrub(Run(short_runs[name].path))
        assert not any(p.waits for p in fresh.panels.values())
        assert fresh.measure().html() == scrubbers[name].html()


def test_each_view_measures_what_it_needs_and_no_more(copied_run, monkeypatch):
    shutil.rmtree(copied_run.path/"tables", ignore_errors=True)
    scrubber = Scrubber(copied_run, ["grid", "attention"])
    assert scrubber.panels["grid", 0].reason == "not measured yet: grid"
    scrubber.measure("attention")
    assert scrubber.panels["attention", 0].frames and scrubber.panels["grid", 0].waits
    assert sorted(p.name for p in (copied_run.path/"tables").iterdir()) == [".lock", "attention.parquet"]


# ---- a view of one's own ----

def test_a_view_of_ones_own_is_registered_and_drawn(short_runs, monkeypatch):
    run = short_runs["modular"]
    monkeypatch.setattr(machine, "views", dict(machine.views))
    def norms(model, context): return [dict(metric="norm", value=float(model.get_input_embeddings().weight.norm()))]

    @view("How long", lambda run: dict(norm=norms), studies="modular")
    def length(shown, table):
        frames = {}
        for row in table.itertuples():
            fig, ax = plt.subplots(figsize=(2, 1))
            ax.bar([0], [row.value])
            plt.close(fig)
            frames[row.step] = as_html(fig, f"{row.value:.1f} at <step> {row.step}")
        return Panel(frames)

    assert find_view("length").studies == ("modular",)
    scrubber = Scrubber(run, ["length", "curves"])
    assert scrubber.panels["length", 0].waits
    frames = scrubber.measure().panels["length", 0].frames
    assert [*frames] == run.steps
    for step, frame in frames.items():
        [(_, image)] = Tags(frame).found
        norm = run.at(step).model.get_input_embeddings().weight.norm()
        assert image["alt"] == f"{norm:.1f} at <step> {step}"
        assert Image.open(io.BytesIO(b64decode(image["src"].removeprefix("data:image/webp;base64,")))).format == "WEBP"
    assert frames[run.steps[-1]] in scrubber.html(), "the first picture stands there without a script"


# ---- widgets ----

def settled(live): live.worker.submit(lambda: None).result(PATIENCE)


def test_moving_the_slider_and_choosing_changes_the_widgets(scrubbers, short_runs):
    scrubber, steps = scrubbers["modular"], short_runs["modular"].steps
    live = scrubber.live
    for place in (0, len(steps) - 1, 1):
        live.slider.value = place
        assert live.play.value == place and live.step.value == f"<b>step {steps[place]:,}</b>"
        for key, panel in scrubber.panels.items():
            choice = live.boxes[key]["choose"].value
            assert live.boxes[key]["picture"].value == panel.whole(panel.choices[choice][steps[place]])
    box, panel = live.boxes["attention", 0], scrubber.panels["attention", 0]
    others = {key: b["picture"].value for key, b in live.boxes.items() if b is not box}
    for choice in reversed(box["choose"].options):
        box["choose"].value = choice
        assert box["picture"].value == panel.whole(panel.choices[choice][steps[1]])
    assert others == {key: b["picture"].value for key, b in live.boxes.items() if b is not box}


def test_the_axis_can_be_changed(short_runs):
    for axis in ("linear", "log"):
        scrubber = Scrubber(short_runs["modular"], ["curves"], axis=axis)
        assert f'data-axis="{axis}"' in scrubber.html() and f">{axis} axis</button>" in scrubber.html()
        live = scrubber.live
        for now in ("log", "linear", "log"):
            live.axis.value = now
            assert ("gs-log-axis" in live.widget._dom_classes) == (now == "log")


def test_a_click_measures_beside_the_slider(copied_run):
    shutil.rmtree(copied_run.path/"tables", ignore_errors=True)
    scrubber = Scrubber([copied_run, copied_run], ["curves", "attention"], names=["a", "b"])
    live = scrubber.live
    boxes = [live.boxes["attention", i] for i in range(2)]
    assert all(b["button"].layout.display is None and "not measured yet" in b["picture"].value for b in boxes)
    assert live.boxes["curves", 0]["button"].layout.display == "none"
    go_on = Event()
    live.worker.submit(go_on.wait, PATIENCE)
    boxes[0]["button"].click()
    assert boxes[0]["button"].disabled and "measuring" in boxes[0]["picture"].value
    live.slider.value = 1
    assert live.step.value == f"<b>step {scrubber.positions[1]:,}</b>", "the slider moves on"
    go_on.set(), settled(live)
    for box in boxes:
        assert box["picture"].value.startswith("<svg") and box["button"].layout.display == "none" and len(box["choose"].options) > 1
    assert not boxes[0]["button"].disabled


def test_measuring_in_a_cell_fills_widgets_that_are_there(copied_run):
    shutil.rmtree(copied_run.path/"tables", ignore_errors=True)
    scrubber = Scrubber(copied_run, ["attention"])
    box = scrubber.live.boxes["attention", 0]
    assert not box["choose"].options
    scrubber.measure()
    assert box["picture"].value.startswith("<svg") and len(box["choose"].options) > 1 and box["button"].layout.display == "none"


def test_a_deep_view_asks_where_the_slider_rests(short_runs, monkeypatch):
    run, ids = short_runs["modular"], (1, 2, 3, 0)
    asked = []
    real = Shown.ask
    monkeypatch.setattr(Shown, "ask", lambda self, view, step: (asked.append(step), real(self, view, step)))
    scrubber = Scrubber(run, [drawn.attention_on(ids)])
    assert "needs a running kernel" in scrubber.html() and not asked
    live = scrubber.live
    box, last = live.boxes["attention_on", 0], len(run.steps) - 1
    settled(live)
    assert asked == [run.steps[-1]]
    go_on = Event()
    live.worker.submit(go_on.wait, PATIENCE)
    for place in (*range(last), 1): live.slider.value = place
    assert f"asking step {run.steps[1]:,} …" in box["picture"].value
    go_on.set(), settled(live)
    assert asked == [run.steps[-1], run.steps[1]], "what the slider passed is not asked, and nothing twice"
    [seen] = shades(box["picture"].value)
    choice = box["choose"].value
    rows = pd.DataFrame(drawn.attention_rows(run.at(run.steps[1]).model, ids=ids)).query(f"layer == {choice.split()[1][:-1]} and head == {choice.split()[3]}")
    assert np.abs(seen[rows["query"], rows["key"], 3]/255 - rows["value"]).max() <= .5/24 + 1/255
    live.slider.value = last
    settled(live)
    assert asked == [run.steps[-1], run.steps[1]] and box["picture"].value.startswith("<svg")


def test_a_deep_view_says_what_is_wrong(short_runs, copied_run):
    live = Scrubber(short_runs["modular"], [drawn.attention_on("a text")]).live
    settled(live)
    assert "there is no tokenizer: give token ids in place of a text" in live.boxes["attention_on", 0]["picture"].value
    def fails(model, context): raise ValueError("two lines\nof it")
    live = Scrubber(short_runs["modular"], [View("deep", "Deep", None, lambda run: dict(fails=fails), deep=True)]).live
    settled(live)
    assert live.boxes["deep", 0]["picture"].value == '<p class="gs-missing">cannot be asked: ValueError: two lines</p>'
    live = Scrubber(short_runs["modular"], [drawn.attention_on((1, 10**6))]).live
    settled(live)
    assert f"input_ids: must be from 0 to {short_runs['modular'].config.p - 1}" in live.boxes["attention_on", 0]["picture"].value
    scrubber = Scrubber(copied_run, [drawn.attention_on((1, 2))])
    shutil.rmtree(copied_run.path)
    live = scrubber.live
    settled(live)
    assert f"{copied_run.path.name} is not there any more" in live.boxes["attention_on", 0]["picture"].value


# ---- bad input: a line in place of the view ----

def test_one_checkpoint(short_runs, tmp_path):
    run = thinned_run(short_runs["modular"], tmp_path/"one", short_runs["modular"].steps[-1:])
    scrubber = run.study.scrub(run).measure()
    page = scrubber.html()
    assert all(p.frames for p in scrubber.panels.values()) and len(scrubber.positions) == 1
    assert 'max="0" value="0"' in page and page.count(" disabled") == 2
    assert scrubber.live.slider.disabled and scrubber.live.play.disabled
    assert scrubber.live.boxes["attention", 0]["picture"].value.startswith("<svg")


def test_only_the_untrained_model(short_runs, tmp_path):
    run = thinned_run(short_runs["grammar"], tmp_path/"first", short_runs["grammar"].steps[:1])
    assert all(p.frames for p in run.study.scrub(run).measure().panels.values())


def test_a_thousand_checkpoints_are_thinned_and_quick(copied_run):
    first, manifest = copied_run.folder(0), (copied_run.folder(0)/"MANIFEST.json").read_text()
    for step in range(1, 1000):
        if copied_run.folder(step).exists(): continue
        shutil.copytree(first, copied_run.folder(step), copy_function=os.link, ignore=shutil.ignore_patterns("MANIFEST.json"))
        (copied_run.folder(step)/"MANIFEST.json").write_text(manifest.replace('"step": 0,', f'"step": {step},'))
    start = time.process_time()
    scrubber = copied_run.study.scrub(copied_run)
    assert time.process_time() - start < 10
    assert 32 <= len(scrubber.positions) <= 40 and scrubber.positions[0] == 0 and scrubber.positions[-1] == 999
    few = Scrubber(copied_run, ["curves", "attention"], most=4).measure()
    assert len(few.positions) >= 4 and few.panels["attention", 0].frames
    every = Scrubber(copied_run, [told()], most=1000)
    assert len(every.positions) == 1000 and len(packed(every.html())["steps"]) == 1000


def test_numbers_that_are_none(short_runs):
    run = short_runs["modular"]
    for bad in (np.nan, np.inf, -np.inf):
        table = run.metrics()
        table.loc[table["step"] > run.steps[1], "value"] = bad
        panel = Scrubber(run, ["curves"], table=table).panels["curves", 0]
        assert bold(panel.frames[run.steps[-1]]) == ["no number"]*4 and "no number" not in panel.frames[0]
        assert not re.search(r"\b(nan|inf)\b", panel.base + "".join(panel.frames.values()))
    run = short_runs["copying"]
    panel = Scrubber(run, ["curves"], table=run.metrics().assign(value=np.nan)).panels["curves", 0]
    assert panel.frames and not re.search(r"\b(nan|inf)\b", panel.base + "".join(panel.frames.values()))


@pytest.mark.parametrize("name", STUDIES)
def test_measured_numbers_that_are_none(scrubbers, short_runs, monkeypatch, name):
    run, real = short_runs[name], of_series.measured
    def broken(*args):
        table = real(*args)
        return table.assign(value=table["value"].where(table["step"] != run.steps[-1]))
    monkeypatch.setattr(of_series, "measured", broken)
    scrubber = studies[name].scrub(Run(run.path))
    for key, panel in scrubber.panels.items():
        assert bool(panel.frames) != bool(panel.reason), key
        if panel.frames: assert not re.search(r"[='\" ]nan\b", panel.base + "".join(f for c in panel.choices.values() for f in c.values())), key
    assert scrubber.panels["attention", 0].frames
    scrubber.html(), scrubber.live


def test_missing_and_damaged_tables(copied_run, capsys):
    shutil.rmtree(copied_run.path/"tables", ignore_errors=True)
    (copied_run.path/"tables").mkdir()
    (copied_run.path/"tables"/"attention.parquet").write_bytes(b"PAR1 and no more")
    scrubber = Scrubber(copied_run, ["attention", "grid"])
    assert scrubber.panels["attention", 0].reason == "not measured yet: attention" and "it was damaged" in capsys.readouterr().err
    assert scrubber.panels["grid", 0].reason == "not measured yet: grid"
    (copied_run.path/"metrics.jsonl").unlink()
    assert Scrubber(copied_run, ["curves"]).panels["curves", 0].reason == "nothing has been measured"


def test_a_folder_that_goes_away(copied_run):
    shutil.rmtree(copied_run.path/"tables", ignore_errors=True)
    scrubber = Scrubber(copied_run, ["curves", "attention", "grid"])
    live = scrubber.live
    shutil.rmtree(copied_run.path)
    live.boxes["attention", 0]["button"].click()
    settled(live)
    assert live.boxes["attention", 0]["picture"].value == f'<p class="gs-missing">{copied_run.path.name} is not there any more</p>'
    live.slider.value = 0
    assert live.boxes["curves", 0]["picture"].value.startswith("<svg")
    scrubber.measure()
    assert scrubber.panels["grid", 0].reason == f"{copied_run.path.name} is not there any more" and not copied_run.path.exists()


def test_a_checkpoint_that_cannot_be_opened(copied_run, capsys):
    shutil.rmtree(copied_run.path/"tables", ignore_errors=True)
    scrubber = Scrubber(copied_run, ["attention"])
    (copied_run.folder(copied_run.steps[1])/"model.safetensors").write_bytes(b"not weights")
    panel = scrubber.measure().panels["attention", 0]
    assert all(len(of_head) == len(scrubber.positions) - 1 for of_head in panel.frames.values()) and "model.safetensors is not what it was" in capsys.readouterr().err


def test_runs_of_two_studies_beside_each_other(scrubbers, short_runs):
    scrubber = Scrubber([short_runs["modular"], short_runs["grammar"]]).measure()
    assert {v.name for v in scrubber.views} == {*studies["modular"].views, *studies["grammar"].views}
    for (name, i), panel in scrubber.panels.items():
        other = ("grammar", "modular")[i]
        if find_view(name).studies == (other,): assert panel.reason == f"is for {other}"
        else: assert panel.frames, f"{name}, {i}: {panel.reason}"
    page = scrubber.html()
    assert page.count("is for ") == sum("is for " in p.reason for p in scrubber.panels.values()) and 'data-runs="2"' in page
    live = scrubber.live
    live.slider.value = 0
    assert all(b["button"].layout.display == "none" for b in live.boxes.values())


def test_checkpoints_that_are_no_run(short_runs, tmp_path):
    run = short_runs["modular"]
    folders = [shutil.copytree(run.folder(s), tmp_path/"others"/f"step{s}") for s in run.steps]
    scrubber = Scrubber(Series(tmp_path/"others")).measure()
    assert {k[0]: p.reason for k, p in scrubber.panels.items()} == dict(
        curves="nothing has been measured: give the table of `measure`", attention="needs a run of ours: it asks about the data that it was trained on")
    assert "give the table of `measure`" in scrubber.html() and scrubber.live.slider.max == len(folders) - 1
    scrubber = Scrubber(Series(tmp_path/"others"), ["curves", "grid", "scores", drawn.attention_on((1, 2))], table=run.metrics())
    assert all(p.reason for p in scrubber.panels.values())
    table = pd.DataFrame([dict(step=s, metric="weight", value=float(s)) for s in run.steps])
    own = View("own", "Own", lambda shown, table: Panel({r.step: f"<b>{r.value}</b>" for r in table.itertuples()}))
    assert Scrubber(Series(tmp_path/"others"), [own], table=table).panels["own", 0].frames[run.steps[-1]] == f"<b>{float(run.steps[-1])}</b>"
    with pytest.raises(InputError, match="no checkpoint"): Scrubber(tmp_path)


@pytest.mark.parametrize("wrong, says", [
    (dict(views=["atention"]), "view 'atention'.*attention"), (dict(views=["curves", "grd"]), "view 'grd'.*grid"), (dict(most=0), "most = 0: must be at least 1"),
    (dict(axis="logarithmic"), "must be linear or log"), (dict(names=["a", "b"]), "names: 2 for 1 series")])
def test_what_cannot_be_is_refused_in_a_line(short_runs, wrong, says):
    with pytest.raises(InputError, match=says) as refused: Scrubber(short_runs["modular"], **wrong)
    assert "\n" not in str(refused.value)


def test_an_empty_list_is_refused():
    with pytest.raises(InputError, match="needs one run or series"): Scrubber([])


def test_a_view_that_fails_says_so(short_runs):
    def fails(shown, table): raise ValueError("two lines\nof it")
    scrubber = Scrubber(short_runs["modular"], [View("fails", "Fails", fails), "curves"])
    assert scrubber.panels["fails", 0].reason == "cannot be drawn: ValueError: two lines"
    assert scrubber.panels["curves", 0].frames and "cannot be drawn" in scrubber.html()


def test_a_report_has_the_scrubber_of_its_run(short_runs, short_report):
    text = short_report.read_text(encoding="utf-8")
    assert text.count('<div class="gs"') == 1
    assert packed(text)["steps"] == short_runs["copying"].steps and all(packed(text)["panels"])
