"""The site of `make docs`: complete, strict, without a request to another host, and searchable from its folder."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from tests.browser import OVERFLOWING, Browser, browser

import clips_pipeline
from clips_pipeline.cli import cli
from clips_pipeline.commands.standalone import standalone

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
PAGES = ("index.html", "tutorials/own-pictures.html", "reference/parameters.html", "reference/python-api.html")


def build(root: Path, out: Path) -> Path:
    """Build the site of a checkout as `make docs` does."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=root,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return out


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(repository, tmp_path_factory.mktemp("site") / "site")


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


class _Loaded(HTMLParser):
    """Collects what a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in LOADING and found.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(found.get(LOADING[tag]) or "")


def text_of(page: Path) -> str:
    """Return the text of a page's article."""
    content = page.read_text(encoding="utf-8")
    return re.sub(r"<[^>]+>", "", content[content.index("<article") : content.index("</article>")])


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = [*site.rglob("*.html")]
    assert len(pages) > 40
    for page in pages:
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.urls
        assert [url for url in loaded.urls if re.match(r"(https?:)?//", url)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet


def test_lists_and_tables_are_rendered(site: Path) -> None:
    """Markdown that GitHub renders and Python-Markdown does not is left in paragraphs."""
    for page in site.rglob("*.html"):
        content = page.read_text(encoding="utf-8")
        article = content[content.find("<article") : content.find("</article>")]
        for paragraph in re.findall(r"<p>(.*?)</p>", article, re.DOTALL):
            plain = re.sub(r"<code>.*?</code>", "", paragraph, flags=re.DOTALL)
            assert not re.search(r"\n\s*(- |\d+\. |\|)|^\||\*\*|`", plain), f"{page}: {paragraph[:200]}"


def test_every_command_and_public_name_has_an_entry(site: Path) -> None:
    commands = text_of(site / "reference/commands.html")
    for program, group in (("clips-pipeline", standalone), ("kedro", cli)):
        for name, command in group.commands.items():
            if program == "kedro" and name in standalone.commands:
                continue
            for found in [name, *(f"{name} {sub}" for sub in getattr(command, "commands", ()))]:
                assert re.search(rf"^\s*Usage:\s+{program} {found} ", commands, re.MULTILINE) or (
                    f"{program} {found} " in commands
                ), found
    api = (site / "reference/python-api.html").read_text(encoding="utf-8")
    for name in set(clips_pipeline.__all__) - {"__version__"}:
        assert f'id="clips_pipeline.{name}"' in api
    for name in ("embed_images", "embed_texts", "similarity", "caption"):
        assert f'id="clips_pipeline.loading.Clips.{name}"' in api


def test_pages_work_from_a_folder_at_every_width(site: Path, window: Browser) -> None:
    window.requests()
    for page in PAGES:
        for width in (1280, 420):
            window.open((site / page).as_uri(), width)
            assert window.run("return document.querySelector('h1').textContent")
            wide = [e for e in window.run(OVERFLOWING) if "md-" not in e and "table" not in e and "code" not in e]
            assert window.run("return document.documentElement.scrollWidth <= innerWidth + 1"), wide
    requests = window.requests()
    assert len(requests) > len(PAGES)
    assert [url for url in requests if not url.startswith(("file:", "blob:", "about:"))] == []


def test_search_finds_a_parameter_without_a_server(site: Path, window: Browser) -> None:
    window.open((site / "index.html").as_uri() + "?q=shuffle_window", 1280)
    script = "return [...document.querySelectorAll('.md-search-result__link')].map(e => e.href)"
    for _ in range(100):
        if found := window.run(script):
            break
        time.sleep(0.1)
    assert any("reference/parameters.html" in link for link in found)
    assert [url for url in window.requests() if not url.startswith(("file:", "blob:", "about:"))] == []


def test_notebooks_become_tutorials_with_their_outputs(repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    shutil.copytree(repository / "docs", root / "docs")
    shutil.copytree(repository / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / "mkdocs.yml", root)
    picture = nbformat.v4.new_output(
        "display_data",
        {
            "image/png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
        },
    )
    said = nbformat.v4.new_output("stream", text="recall 0.25")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# Fifteen minutes\n\nSee [the method](../explanation/method.md)."),
        nbformat.v4.new_code_cell("print('recall', 0.25)", outputs=[said, picture]),
    ]
    (root / "notebooks").mkdir()
    nbformat.write(notebook, root / "notebooks/clips_in_15_minutes.ipynb")
    site = build(root, tmp_path / "site")
    page = site / "tutorials/clips_in_15_minutes.html"
    assert "recall 0.25" in text_of(page)
    pictures = re.findall(r'<img[^>]* src="([^"]+)"', page.read_text(encoding="utf-8"))
    assert all((page.parent / name).is_file() for name in pictures)
    assert len(pictures) == 1
    assert "Fifteen minutes" in (site / "tutorials/own-pictures.html").read_text(encoding="utf-8")
    # Links of a notebook are checked like those of a page.
    notebook.cells[0].source = "# Fifteen minutes\n\n[Gone](../explanation/gone.md)"
    nbformat.write(notebook, root / "notebooks/clips_in_15_minutes.ipynb")
    with pytest.raises(AssertionError, match=r"explanation/gone\.md"):
        build(root, tmp_path / "broken")


def test_the_index_of_the_search_has_every_page(site: Path, repository: Path) -> None:
    found = {
        entry["location"].split("#")[0] for entry in json.loads((site / "search/search_index.json").read_text())["docs"]
    }
    for page in (repository / "docs").glob("*/*.md"):
        assert f"{page.parent.name}/{page.stem}.html" in found
