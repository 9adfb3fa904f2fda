"""The page of the server in a real browser: a dropped picture shows its caption and neighbors; hostile texts do nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser import LOW_CONTRAST, OVERFLOWING, Browser, browser
from tests.served import COLORS, server_process
from tests.servers import wait_for

# A picture that is drawn in the page, then chosen by drop, as a user does it.
DROP = """
const canvas = Object.assign(document.createElement('canvas'), {width: 40, height: 30});
const pen = canvas.getContext('2d'); pen.fillStyle = 'red'; pen.fillRect(0, 0, 40, 30);
const bytes = Uint8Array.from(atob(canvas.toDataURL('image/png').split(',')[1]), letter => letter.charCodeAt(0));
const carried = new DataTransfer(); carried.items.add(new File(CONTENT, 'red.png', {type: 'image/png'}));
document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: carried, bubbles: true}));
"""
NEIGHBORS = "return [...document.querySelectorAll('#neighbors img')].map(e => [e.naturalWidth, e.alt])"
TEXT = "return document.getElementById('{}').innerText"


@pytest.fixture(scope="module")
def opened() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def port(model_folder: Path, index: Path) -> Iterator[int]:
    with server_process(model_folder, "--index", str(index), "--pictures") as (_, port):
        yield port


@pytest.mark.parametrize("width", [1280, 420])
def test_a_dropped_picture_shows_its_caption_texts_and_neighbors(opened: Browser, port: int, width: int) -> None:
    opened.requests()
    opened.open(f"http://127.0.0.1:{port}/", width)
    opened.run(DROP.replace("CONTENT", "[bytes]"))
    wait_for(lambda: opened.run(TEXT.format("state")) == "done")
    assert opened.run(TEXT.format("caption")) != "no picture yet"
    # Pictures are decoded after they are in the page.
    wait_for(lambda: opened.run("return document.getElementById('picture').naturalWidth") == 40)
    wait_for(lambda: opened.run(NEIGHBORS) == [[40, "red"], [40, "blue"]])
    rows = opened.run("return [...document.querySelectorAll('#neighbors tbody tr')].map(row => row.innerText)")
    assert len(rows) == 2 * len(COLORS)
    assert any("image" in row and "red" in row and row.startswith("1.000") for row in rows)
    assert any("<script>window.hacked = 1; alert(1)</script>" in row and "[U+202E]" in row for row in rows)
    assert (
        len(opened.run("return [...document.querySelectorAll('#similarity tbody tr')].map(row => row.innerText)")) == 2
    )
    assert opened.dialog() is None
    assert opened.run("return typeof window.hacked") == "undefined"
    assert opened.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert opened.run(OVERFLOWING) == []
    assert opened.run(LOW_CONTRAST) == []
    hosts = {url.split("/")[2] for url in opened.requests() if not url.startswith(("blob:", "data:"))}
    assert hosts == {f"127.0.0.1:{port}"}


def test_search_by_text_and_what_is_no_picture(opened: Browser, port: int) -> None:
    opened.open(f"http://127.0.0.1:{port}/", 800)
    opened.run(
        "document.getElementById('query').value = 'a blue circle'; document.querySelector('#ask button').click()"
    )
    wait_for(lambda: "a blue circle" in opened.run(TEXT.format("neighbors")))
    assert opened.run("return document.querySelector('#neighbors tbody tr').innerText").startswith("1.000")
    opened.run(DROP.replace("CONTENT", "['no picture']"))
    wait_for(lambda: "no JPEG, PNG or WebP" in opened.run(TEXT.format("state")))
    assert opened.run(TEXT.format("neighbors")) == ""


def test_the_description_of_the_api_needs_no_other_host(opened: Browser, port: int) -> None:
    opened.requests()
    opened.open(f"http://127.0.0.1:{port}/docs", 420)
    assert "POST /search" in opened.run("return document.body.innerText")
    assert opened.run("return document.scripts.length") == 0
    assert opened.run(OVERFLOWING) == []
    assert opened.run(LOW_CONTRAST) == []
    assert {url.split("/")[2] for url in opened.requests()} == {f"127.0.0.1:{port}"}
