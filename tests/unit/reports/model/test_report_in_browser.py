"""Report of a version in a real browser: no scripts, no requests, no overflow, sufficient contrast."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.browser import LOW_CONTRAST, OVERFLOWING, Browser, browser
from tests.unit.reports.data.hostile_texts import TEXTS
from tests.unit.reports.model.model_report_data import facts, report_data, rows

from clips_pipeline.data.images.thumbnail import make_thumbnail
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.reports.model.pages import model_html
from clips_pipeline.reports.page import write_page

STATE = """
return [typeof window.hacked, document.scripts.length, document.querySelectorAll('h1').length,
  document.querySelectorAll('svg.figure text').length > 20, getComputedStyle(document.body).display];
"""


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    html = model_html(facts(TEXTS), report_data(TEXTS), rows(30))
    return write_page(html, tmp_path_factory.mktemp("report") / "report.html")


@pytest.mark.parametrize("width", [1280, 400])
def test_hostile_captions_do_nothing_and_stay_within_the_window(opened: Browser, report: Path, width: int) -> None:
    opened.emulate("screen", "light")
    opened.requests()
    opened.open(report.as_uri(), width)
    opened.run("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert opened.dialog() is None
    assert opened.run(STATE) == ["undefined", 0, 1, True, "block"]
    assert "<script>window.hacked = 1; alert(1)</script>" in opened.run("return document.body.innerText")
    assert opened.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert opened.run(OVERFLOWING) == []
    assert opened.run("return [...document.images].filter(e => !e.naturalWidth || !e.alt).length") == 0
    assert opened.requests() == [report.as_uri()]
    links = opened.run("return [...document.links].map(e => e.href).filter(e => !e.startsWith('file:'))")
    assert links == ["http://127.0.0.1:5000/#/runs/1"]


@pytest.mark.parametrize(("media", "scheme"), [("screen", "light"), ("screen", "dark"), ("print", "light")])
def test_every_text_has_sufficient_contrast(opened: Browser, report: Path, media: str, scheme: str) -> None:
    opened.open(report.as_uri(), 1280)
    opened.emulate(media, scheme)
    assert opened.run(LOW_CONTRAST) == []


def test_the_largest_report_of_incompressible_images_is_below_ten_megabytes(tmp_path: Path) -> None:
    most = EvaluationConfig(examples=25).examples
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    noise.save(tmp_path / "noise.png")
    webp = base64.b64encode(make_thumbnail((tmp_path / "noise.png").read_bytes(), 144).webp).decode()
    few = report_data(["x" * 2_000])
    picture = replace(few.worst_images[0].image, webp=webp)
    image = replace(few.worst_images[0], image=picture, captions=(("x" * 2_000, False),) * 5)
    caption = replace(few.worst_captions[0], images=((picture, False),) * 5, truth=picture)
    full = replace(
        few,
        worst_images=(image,) * most,
        even_images=(image,) * most,
        worst_captions=(caption,) * most,
        even_captions=(caption,) * most,
        captioned=(replace(few.captioned[0], image=picture),) * most,
    )
    html = model_html(facts(["x"]), full, rows(30))
    assert 1_000_000 < len(html.encode()) < 10_000_000


def test_print_fits_the_table_and_expands_details(opened: Browser, tmp_path: Path) -> None:
    page = write_page(model_html(facts(["a b"]), report_data(["a b"]), rows(30)), tmp_path / "report.html")
    # A4 with usual margins.
    opened.open(page.as_uri(), 718)
    opened.emulate("print", "dark")
    reach = "return Math.max(...[...document.querySelectorAll('.dense td')].map(e => e.getBoundingClientRect().right))"
    assert opened.run(reach) <= 718
    assert opened.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    folded = (
        "const e = document.querySelector('.query details'); return [e.open, e.getBoundingClientRect().height > 40]"
    )
    assert opened.run(folded) == [False, True]
