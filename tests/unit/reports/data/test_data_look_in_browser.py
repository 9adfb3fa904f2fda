"""The pages of `kedro data look` and `kedro compare --runs` in a real browser, on desktop and phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser import LOW_CONTRAST, OVERFLOWING, Browser, browser
from tests.unit.reports.data.hostile_texts import TEXTS
from tests.unit.reports.data.test_data_look import hostile_cards, look

from clips_pipeline.reports.data.data_look import write_look
from clips_pipeline.reports.model.run_comparison import (
    Difference,
    Overlay,
    RunComparison,
    Section,
    write_run_comparison,
)

STATE = "return [typeof window.hacked, document.scripts.length, document.querySelectorAll('h1').length];"


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module", params=["look", "runs"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pages") / "page.html"
    if request.param == "look":
        return write_look(look(*hostile_cards()), file)
    rows = [Difference(text, text, TEXTS[0], text) for text in TEXTS]
    curves = {step: 1 / step for step in range(1, 40)}
    overlays = [Overlay(text[:200], curves, {**curves, 7: 1.0}, 7, (8, 16)) for text in TEXTS]
    sections = [Section("parameters", rows, TEXTS[1]), Section("data", (), TEXTS[0])]
    return write_run_comparison(
        RunComparison((TEXTS[0], TEXTS[8]), (TEXTS[1], TEXTS[2]), TEXTS, sections, overlays, (TEXTS, ())), file
    )


@pytest.mark.parametrize("width", [1280, 420])
def test_hostile_text_does_nothing_and_stays_within_the_window(opened: Browser, page: Path, width: int) -> None:
    opened.emulate("screen", "light")
    opened.requests()
    opened.open(page.as_uri(), width)
    opened.run("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert opened.dialog() is None
    assert opened.run(STATE) == ["undefined", 0, 1]
    assert opened.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert opened.run(OVERFLOWING) == []
    assert opened.requests() == [page.as_uri()]


@pytest.mark.parametrize(("media", "scheme"), [("screen", "light"), ("screen", "dark"), ("print", "light")])
def test_every_text_has_sufficient_contrast(opened: Browser, page: Path, media: str, scheme: str) -> None:
    opened.open(page.as_uri(), 1280)
    opened.emulate(media, scheme)
    assert opened.run(LOW_CONTRAST) == []
