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
    from grok_nb.docs.pages import address
    made = set(pages(site))
    for p in tracked_files():
        if p.suffix == ".ipynb" and p.parts[0] == "nbs": assert address(p.relative_to("nbs").as_posix()) in made
        if p.suffix == ".py" and p.parts[0] == "grok_nb" and p.name != "_modidx.py": assert f"source/{p.with_suffix('.html')}" in made


def test_no_paragraph_is_lost(site):
    from grok_nb.docs.pages import address
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


def small_site(folder, *cells, title="home"):
    "The home page of a site of one page, with these cells."
    from execnb.nbio import mk_cell, new_nb, write_nb
    from grok_nb.docs.pages import build
    (folder/"package").mkdir()
    (folder/"_proc").mkdir()
    (folder/"_proc"/"_quarto.yml").write_text("website: {sidebar: {contents: [index.ipynb]}}")
    write_nb(new_nb([mk_cell(f"---\ntitle: {json.dumps(title)}\n---", "raw"), *cells]), folder/"_proc"/"index.ipynb")
    settings = dict(title="t", copyright="", doc_host="https://e.org", doc_baseurl="/x", git_url="https://e.org/c", branch="main")
    build(folder/"_proc", folder/"site", settings, folder/"package")
    return folder/"site"/"index.html"


def test_a_scrubber_passes_unchanged(tmp_path):
    from execnb.nbio import mk_cell
    cell = mk_cell("scrub(run)")
    cell.outputs = [dict(output_type="display_data", data={"text/html": SCRUBBER.splitlines(True), "text/plain": "Scrubber"})]
    assert SCRUBBER in small_site(tmp_path, cell).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["[a page](core/nothing.ipynb)", "[a heading](#nothing)", "[`a_name`](https://e.org/x/core/nothing.html#a_name)",
                                  "[source](https://e.org/c/blob/main/package/nothing.py#L1)", "![a picture](nothing.png)"])
def test_a_link_that_leads_nowhere_stops_the_build(tmp_path, text):
    from execnb.nbio import mk_cell
    with pytest.raises(ValueError, match=r"index\.md:\d+: .*nothing"): small_site(tmp_path, mk_cell(f"A line.\n\n{text}", "markdown"))
    assert not (tmp_path/"site").exists()


def test_the_sidebar_is_nested_and_open_where_the_page_is(site):
    def sections(name):
        nav = re.search(r'<div class="sidebar-tree">.*?</aside>', (site/name).read_text(encoding="utf-8"), re.S)[0]
        found = re.findall(r'<a class="[^"]*reference internal" href="[^"]*">([^<]+)</a><input ([^>]*)>', nav)
        return re.findall(r'class="caption-text">([^<]+)<', nav), {title: "checked" in box for title, box in found}
    (captions, home), (_, lens), (_, source) = map(sections, ("index.html", "core/lens.html", "source/grok_nb/lens.html"))
    assert captions == ["Start", "Tutorials", "Results", "Reference", "Benchmarks"]
    assert [*home] == ["Core", "Modular", "Copying", "Grammar", "Markov", "See", "Commands", "Docs"]
    assert not any(home.values()) and not any(source.values())
    assert [s for s in lens if lens[s]] == ["Core"]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_work_in_a_browser(site, opened, width):
    page = opened(color_scheme="dark", viewport=dict(width=width, height=844), offline=True)
    for name in pages(site):
        page.goto((site/name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the window"
    page.goto((site/"index.html").as_uri())
    colour = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = colour()
    assert sum(map(int, re.findall(r"\d+", dark)[:3])) < 150, "the reader's system decides"
    page.locator(".theme-toggle:visible").click()
    assert (light := colour()) != dark
    page.goto((site/"core"/"models.html").as_uri())
    assert colour() == light, "it is kept"
    if width == 390: page.locator("label.nav-overlay-icon:visible").click()
    page.locator(".sidebar-tree").get_by_role("link", name="lens", exact=True).click()
    page.wait_for_url("**/core/lens.html")
    assert 0 < page.locator(".sidebar-tree .current-page > a").last.bounding_box()["y"] < 844, "its place in the sidebar is in view"
    if width == 390: page.locator("label.nav-overlay-icon:visible").click()
    page.locator(".sidebar-tree li", has=page.get_by_role("link", name="Modular", exact=True)).locator("label").first.click()
    page.locator(".sidebar-tree").get_by_role("link", name="modular.geometry", exact=True).click()
    page.wait_for_url("**/modular/geometry.html")
    if width == 390: page.locator("label.nav-overlay-icon:visible").click()
    page.locator(".sidebar-tree").get_by_role("link", name="Home").click()
    page.wait_for_url("**/index.html*")


def found(page, words):
    "Titles that Sphinx's search lists for some words."
    page.locator(".sidebar-search").fill(words)
    page.locator(".sidebar-search").press("Enter")
    page.wait_for_function("words => new URLSearchParams(location.search).get('q') == words && /finished|did not match/.test(document.querySelector('.search-summary')?.innerText)", arg=words)
    count = re.search(r"found (\d+|one) page", page.locator(".search-summary").inner_text())
    options = page.locator("#search-results li > a")
    if count: page.wait_for_function("n => document.querySelectorAll('#search-results li').length == n", arg=1 if count[1] == "one" else int(count[1]))
    return options.all_inner_texts()


@pytest.mark.parametrize("width", [1280, 390])
def test_search_finds_a_heading_and_goes_there(site, opened, width):
    page = opened(viewport=dict(width=width, height=844), offline=True)
    page.goto((site/"results"/"modular.html").as_uri())
    if width == 390: page.locator("label.nav-overlay-icon:visible").click()
    page.keyboard.press("/")
    assert page.locator(".sidebar-search").evaluate("e => e == document.activeElement")
    assert found(page, "transitions")[0] == "transitions", "the title comes first"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if width == 390: page.locator("label.nav-overlay-icon:visible").click()
    assert found(page, "Kaplan_meier INTERVALS")[0] == "intervals", "every word counts, in any case and order"
    if width == 390: page.locator("label.nav-overlay-icon:visible").click()
    assert found(page, "nosuchthinghere") == []
    if width == 390: page.locator("label.nav-overlay-icon:visible").click()
    assert "lens" in found(page, "unembedding"), "a word that stands in no heading"
    if width == 390: page.locator("label.nav-overlay-icon:visible").click()
    assert "intervals > kaplan_meier" in found(page, "kaplan_meier")
    page.get_by_role("link", name="intervals > kaplan_meier").click()
    page.wait_for_url("**/core/intervals.html*#kaplan-meier")
    assert 0 <= page.get_by_role("heading", name="kaplan_meier").bounding_box()["y"] < 844, "the heading is in view"
    page.goto(f"{(site/'core'/'transitions.html').as_uri()}#arrived")
    assert 0 <= page.get_by_role("heading", name="arrived").first.bounding_box()["y"] < 844
    page.goto(f"{(site/'core'/'intervals.html').as_uri()}#kaplan_meier")
    assert 0 <= page.get_by_role("heading", name="kaplan_meier").bounding_box()["y"] < 844, "as nbdev names it"


def test_search_shows_text_and_never_markup(tmp_path, opened):
    from execnb.nbio import mk_cell
    evil = "<img src=x onerror=alert(1)> </script>"
    path = small_site(tmp_path, mk_cell(f"## {re.sub('[<>]', lambda m: chr(92) + m[0], evil)} heading", "markdown"), title=evil.replace("<", "\\<"))
    page = opened()
    page.goto(path.as_uri())
    assert {*found(page, evil)} == {evil, f"{evil} > {evil} heading"}
    assert page.locator(".sidebar-search").input_value() in ("", evil) and page.locator("img").count() == 0


@pytest.mark.slow
def test_another_reader_of_quarto_yml_has_nothing_to_say(checkout, capsys):
    "smalldocs reads it as quarto does: options that it does not know, pages that are missing, links that are broken."
    smalldocs = pytest.importorskip("smalldocs.check", reason="needs smalldocs")
    said = smalldocs.check(checkout/"nbs")
    assert said == 0, capsys.readouterr().out


@pytest.mark.parametrize("website, complaint", [
    ("{title: t, sidebr: {contents: [index.ipynb]}}", "website.sidebr"), ("{title: t, sidebar: {contents: [{sektion: A, contents: index.ipynb}]}}", "sektion"),
    ("{title: t, sidebar: {contents: [index.ipynb, nothing.ipynb]}}", "nothing.ipynb"), ("{title: t, sidebar: {contents: [index.ipynb]}}", "")])
def test_what_the_other_reader_would_find(tmp_path, capsys, website, complaint):
    from execnb.nbio import mk_cell, new_nb, write_nb
    smalldocs = pytest.importorskip("smalldocs.check", reason="needs smalldocs")
    (tmp_path/"_quarto.yml").write_text(f"project: {{type: website}}\nwebsite: {website}\n")
    write_nb(new_nb([mk_cell("# home", "markdown")]), tmp_path/"index.ipynb")
    assert smalldocs.check(tmp_path) == bool(complaint)
    assert complaint in capsys.readouterr().out
