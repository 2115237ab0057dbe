"The documentation site: whole, readable, and on its own."
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import ROOT, tracked_files


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The site as `make docs` builds it, from a copy of the repository. A link that leads nowhere stops the build."
    root = tmp_path_factory.mktemp("checkout")
    for p in tracked_files():
        (root/p).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/p, root/p, follow_symlinks=False)
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    done = subprocess.run([sys.executable, "-m", "grok_nb.see.site", "docs"], cwd=root, env=env, capture_output=True, text=True)
    if done.returncode: pytest.fail(done.stderr[-2000:], pytrace=False)
    return root/"_docs"


class Tags(HTMLParser):
    "All tags of a page with their attributes."
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes): self.found.append((tag, dict(attributes)))


def pages(site): return {str(p.relative_to(site)): p.read_text(encoding="utf-8") for p in sorted(site.rglob("*.html"))}


def test_every_notebook_and_module_has_a_page(site):
    from grok_nb.see.site import address
    made = set(pages(site))
    for p in tracked_files():
        if p.suffix == ".ipynb" and p.parts[0] == "nbs": assert address(p.relative_to("nbs").as_posix()) in made
        if p.suffix == ".py" and p.parts[0] == "grok_nb" and p.name != "_modidx.py": assert f"source/{p.with_suffix('.html')}" in made


def test_no_paragraph_is_lost(site):
    from grok_nb.see.site import address
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


def test_the_pages_work_in_a_browser(site):
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium: pytest.skip("needs Chromium")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(color_scheme="dark")
        wrong = []
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
        page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url}"))
        for name in pages(site):
            page.goto((site/name).as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the window"
        page.goto((site/"index.html").as_uri())
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Light or dark").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        page.get_by_role("link", name="Home").wait_for()
        browser.close()
    assert not wrong
