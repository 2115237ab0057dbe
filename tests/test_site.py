"The documentation site: whole, readable, and on its own."
import json
import re
from html.parser import HTMLParser

import pytest
from conftest import ROOT, tracked_files


class Tags(HTMLParser):
    "All tags of a page with their attributes."
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes): self.found.append((tag, dict(attributes)))


def pages(site): return {str(p.relative_to(site)): p.read_text(encoding="utf-8") for p in sorted(site.rglob("*.html"))}


def test_every_notebook_and_module_has_a_page(site):
    from grok_nb.docs.site import address
    made = set(pages(site))
    for p in tracked_files():
        if p.suffix == ".ipynb" and p.parts[0] == "nbs": assert address(p.relative_to("nbs").as_posix()) in made
        if p.suffix == ".py" and p.parts[0] == "grok_nb" and p.name != "_modidx.py": assert f"source/{p.with_suffix('.html')}" in made


def test_no_paragraph_is_lost(site):
    from grok_nb.docs.site import address
    def words(text): return re.sub(r"\W+", "", re.sub(r"<[^>]+>", "", text))
    for p in tracked_files():
        if p.suffix != ".ipynb" or p.parts[0] != "nbs": continue
        page = words((site/address(p.relative_to("nbs").as_posix())).read_text(encoding="utf-8"))
        for cell in json.loads((ROOT/p).read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] != "markdown": continue
            for line in "".join(cell["source"]).splitlines():
                if plain := re.fullmatch(r"[\w ,.:;()]{20,}", line.strip()): assert words(plain[0]) in page, f"{p}: {line}"


def test_nothing_comes_from_outside(site):
    for name, text in pages(site).items():
        for tag, attributes in Tags(text).found:
            loaded = attributes.get("src") or (attributes.get("href") if tag == "link" else None) or ""
            assert not re.match(r"(https?:)?//", loaded), f"{name}: {loaded}"


def test_every_picture_has_a_text(site):
    for name, text in pages(site).items():
        for tag, attributes in Tags(text).found:
            if tag == "img": assert (attributes.get("alt") or "").strip(), f"{name}: {attributes.get('src', '')[:80]}"


SCRUBBER = """<div class="gs"><svg viewBox="0 0 4 4"><defs><path id="g" d="M0 0h1"/></defs><use xlink:href="#drawn-later"/>
<image href="data:image/webp;base64,AAAA"/><a href="nowhere.html"><path d="M1 1"/></a></svg><img src="data:image/png;base64,AAAA" alt="a frame">
<input type="range" oninput="go(this)"><script type="application/json">{"a": "<b href=\\"nowhere.html\\">$x &amp; \\\\ ```"}</script>
<script>const part = '<img src="missing.png">' + "href=\\"nowhere.ipynb\\"";</script></div>"""


def test_a_scrubber_passes_unchanged(tmp_path):
    from execnb.nbio import mk_cell, new_nb, write_nb
    from grok_nb.docs.site import build
    (tmp_path/"package").mkdir()
    (tmp_path/"_proc").mkdir()
    (tmp_path/"_proc"/"_quarto.yml").write_text("website: {sidebar: {contents: [index.ipynb]}}")
    cell = mk_cell("scrub(run)")
    cell.outputs = [dict(output_type="display_data", data={"text/html": SCRUBBER.splitlines(True), "text/plain": "Scrubber"})]
    write_nb(new_nb([mk_cell("---\ntitle: home\n---", "raw"), cell]), tmp_path/"_proc"/"index.ipynb")
    settings = dict(title="t", doc_host="https://e.org", doc_baseurl="/x", git_url="https://e.org/c", branch="main")
    build(tmp_path/"_proc", tmp_path/"site", settings, tmp_path/"package")
    assert SCRUBBER in (tmp_path/"site"/"index.html").read_text(encoding="utf-8")


def test_the_sidebar_is_nested_and_open_where_the_page_is(site):
    def sections(name):
        nav = re.search(r'<nav id="pages".*?</nav>', (site/name).read_text(encoding="utf-8"), re.S)[0]
        return dict((title, bool(is_open)) for is_open, title in re.findall(r"<details( open)?><summary>([^<]+)</summary>", nav))
    home, lens, source = map(sections, ("index.html", "core/lens.html", "source/grok_nb/lens.html"))
    assert {"Start", "Results", "Reference", "Core", "Modular", "Copying", "Grammar", "See", "Commands", "Docs", "Benchmarks"} <= set(home)
    assert [s for s in home if home[s]] == ["Start"]
    assert [s for s in lens if lens[s]] == ["Reference", "Core"]
    assert not any(source.values())


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_work_in_a_browser(site, opened, width):
    page = opened(color_scheme="dark", viewport=dict(width=width, height=844))
    for name in pages(site):
        page.goto((site/name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the window"
    page.goto((site/"index.html").as_uri())
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    if width == 390: page.get_by_role("button", name="Pages").click()
    page.get_by_role("link", name="Home").wait_for()
    page.get_by_text("Reference", exact=True).click()
    page.get_by_text("Core", exact=True).click()
    page.get_by_role("link", name="lens", exact=True).click()
    page.wait_for_url("**/core/lens.html")


@pytest.mark.parametrize("width", [1280, 390])
def test_search_finds_a_heading_and_goes_there(site, opened, width):
    page = opened(viewport=dict(width=width, height=844))
    page.goto((site/"results"/"modular.html").as_uri())
    box, options = page.locator("#search"), page.locator("#found [role=option]")
    page.keyboard.press("/")
    assert box.evaluate("e => e == document.activeElement") and box.get_attribute("aria-expanded") == "false"
    page.keyboard.type("transitions")
    assert box.get_attribute("aria-expanded") == "true"
    assert options.first.inner_text().splitlines() == ["transitions", "Reference › Core"], "the title comes before headings"
    assert 2 <= options.count() <= 12
    box.fill("Kaplan_meier INTERVALS")
    assert options.all_inner_texts() == ["intervals › kaplan_meier\nReference › Core"], "every word counts, in any case and order"
    box.fill("a")
    assert options.count() == 12
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    chosen = lambda: page.evaluate("document.getElementById(document.getElementById('search').getAttribute('aria-activedescendant')).id")
    page.keyboard.press("ArrowUp")
    assert chosen() == "found-11"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert chosen() == "found-1" and page.locator("#found [aria-selected=true]").count() == 1
    box.fill("no such thing here")
    assert options.count() == 0 and "No title" in page.get_by_role("status").first.inner_text()
    box.fill("lag")
    page.keyboard.press("Escape")
    assert box.input_value() == "" and not page.locator("#found").is_visible() and box.get_attribute("aria-expanded") == "false"
    page.keyboard.press("/")
    page.keyboard.type("kaplan_meier inter")
    page.keyboard.press("Enter")
    page.wait_for_url("**/core/intervals.html#kaplan_meier")
    top = page.locator("h3#kaplan_meier").bounding_box()["y"]
    assert 0 <= top < 844, "the heading is in view"
    page.locator("#search").fill("arrived")
    page.get_by_role("option").first.click()
    page.wait_for_url("**/core/transitions.html#arrived")
    assert not page.locator("#found").is_visible()


def test_search_shows_text_and_never_markup(tmp_path, opened):
    from grok_nb.docs.search import SEARCH_BOX, search_script
    evil = "<img src=x onerror=alert(1)> </script>"
    (tmp_path/"search.js").write_text(search_script([(evil, "a.html", evil, [(evil, 'b"c')])]), encoding="utf-8")
    (tmp_path/"a.html").write_text(f'<meta charset="utf-8"><link rel="icon" href="data:,">{SEARCH_BOX}<script src="search.js"></script>')
    page = opened()
    page.goto((tmp_path/"a.html").as_uri())
    page.locator("#search").fill("img onerror")
    assert page.get_by_role("option").all_inner_texts() == [evil + evil, f"{evil} › {evil}{evil}"]
    assert page.locator("#found img").count() == 0
