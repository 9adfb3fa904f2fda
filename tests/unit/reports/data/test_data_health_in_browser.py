"""Data health report in a real browser: no scripts, no requests, no overflow, on desktop and phone."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser import LOW_CONTRAST, OVERFLOWING, Browser, browser
from tests.unit.reports.data.hostile_texts import Words, hostile_shards

from clips_pipeline.reports.data.data_health import HealthConfig, write_data_health
from clips_pipeline.text.caption_rows import CaptionConfig

STATE = """
return [typeof window.hacked, document.scripts.length, document.querySelectorAll('h1').length,
  document.querySelectorAll('article').length, getComputedStyle(document.body).display];
"""


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    hostile_shards(folder / "shards")
    return write_data_health(folder / "shards", Words(), CaptionConfig(), HealthConfig(), folder / "report.html")


@pytest.mark.parametrize("width", [1200, 360])
def test_hostile_data_does_nothing_and_stays_within_the_window(opened: Browser, report: Path, width: int) -> None:
    opened.requests()
    opened.open(report.as_uri(), width)
    opened.run("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert opened.dialog() is None
    assert opened.run(STATE) == ["undefined", 0, 1, 14, "block"]
    assert opened.run("return innerWidth") == width
    assert opened.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert opened.run(OVERFLOWING) == []
    assert opened.requests() == [report.as_uri()]


@pytest.mark.parametrize(("media", "scheme"), [("screen", "light"), ("screen", "dark"), ("print", "light")])
def test_every_text_has_sufficient_contrast(opened: Browser, report: Path, media: str, scheme: str) -> None:
    opened.open(report.as_uri(), 1200)
    opened.emulate(media, scheme)
    assert opened.run(LOW_CONTRAST) == []


def test_the_checks_detect_violations(opened: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<h1 style='color: #aaa'>x</h1><div style='width: 3000px'>wide</div>"
        "<img src='http://127.0.0.1:9/x.png'><script>hacked = 1</script>"
    )
    opened.requests()
    opened.open(page.as_uri(), 1200)
    assert opened.run(STATE)[:2] == ["number", 1]
    assert len(opened.run(OVERFLOWING)) == 1
    assert [round(contrast, 2) for contrast, _ in opened.run(LOW_CONTRAST)] == [2.32]
    assert "http://127.0.0.1:9/x.png" in opened.requests()
    opened.run("setTimeout(() => alert('hello'))")
    until = time.monotonic() + 30
    while opened.dialog() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert opened.dialog() == "hello"
    opened.dismiss()


def test_the_content_security_policy_blocks_scripts(opened: Browser, report: Path) -> None:
    foreign = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>"
    changed = report.with_name("changed.html")
    changed.write_text(report.read_text(encoding="utf-8").replace("<nav>", f"{foreign}<nav>"), encoding="utf-8")
    opened.open(changed.as_uri(), 1200)
    assert opened.run(STATE)[:2] == ["undefined", 1]
