"""The frame of all reports: what foreign text becomes, and how figures are written."""

from html.parser import HTMLParser

import pytest
from tests.unit.reports.hostile import TEXTS

from clips_pipeline.reports.page import number, page, picture, share, size, summary_of, table, text, write_page


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("value", TEXTS)
def test_foreign_text_is_text_in_every_place(value: str) -> None:
    shown = Page(f"<p>{text(value)}</p>")
    assert shown.tags == ["p"]
    inside = Page(f'<p title="{text(value)}">')
    assert inside.tags == ["p"]
    assert [name for _, name, _ in inside.attributes] == ["title"]
    assert inside.attributes[0][2] == shown.text
    if value.isprintable():
        assert shown.text == value


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert text("a\x00b\u202ec\u2066\ud800") == "a[U+0000]b[U+202E]c[U+2066][U+D800]"
    assert text("tab\tend\n") == "tab\tend\n"
    # Letters of Persian and pictures of families need their joiners.
    assert text("\u0645\u06cc\u200c\u062e 👨\u200d👩") == "\u0645\u06cc\u200c\u062e 👨\u200d👩"


def test_long_text_is_cut_and_its_length_told() -> None:
    assert text("x" * 10_000, 3) == "xxx… (10,000 characters)"
    assert text("xxx", 3) == "xxx"
    # Cut before it is escaped, so that no half of an escape is left.
    assert text("<<<<", 2) == "&lt;&lt;… (4 characters)"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (1234567, "1,234,567"), (5.3049, "5.3"), (0.01234, "0.0123"), (123.4, "123"), (99999.6, "100,000")],
)
def test_numbers(value: float, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 0, "–"),
        (0, 5, "0.0 %"),
        (1, 3, "33.3 %"),
        (5, 5, "100.0 %"),
        (1, 10_000_000, "< 0.1 %"),
        (9_999_999, 10_000_000, "> 99.9 %"),
    ],
)
def test_shares_never_hide_what_there_is(part: int, whole: int, expected: str) -> None:
    assert share(part, whole) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1_234_000, "1.23 MB"),
        (999_999, "1 MB"),
        (5.5e12, "5.5 TB"),
        (4e15, "4,000 TB"),
    ],
)
def test_sizes(value: float, expected: str) -> None:
    assert size(value) == expected


def test_tables_have_heads_and_figures_stand_right() -> None:
    shown = Page(
        table(["split", "samples", "reason"], [["a", "1,000", "x"], ["b", "< 0.1 %".replace("<", "&lt;"), "7"]], "C")
    )
    assert shown.tags.count("th") == 3 + 2
    scopes = [value for tag, name, value in shown.attributes if (tag, name) == ("th", "scope")]
    assert scopes == ["col"] * 3 + ["row"] * 2
    classes = [(tag, value) for tag, name, value in shown.attributes if name == "class" and tag in ("th", "td")]
    # The reasons are not all figures.
    assert classes == [("th", "number"), ("td", "number"), ("td", "number")]


def test_the_summary_is_found_again_whatever_it_says(tmp_path) -> None:
    for value in TEXTS:
        summary = f"<p>{text(value)}</p>"
        file = write_page(page(value, summary, f"<p>{text(TEXTS[4])}</p>"), tmp_path / "new" / "page.html")
        assert summary_of(file.read_text(encoding="utf-8")) == summary
    assert [file.name for file in file.parent.iterdir()] == ["page.html"]
    assert summary_of("<p>another page</p>") == ""


def test_nothing_is_fetched_and_no_script_may_run() -> None:
    shown = Page(page("T", "s", picture(b"123", "png", 'a "b"')))
    policy = [value for tag, name, value in shown.attributes if (tag, name) == ("meta", "content")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy
    assert ("img", "src", "data:image/png;base64,MTIz") in shown.attributes
    assert ("img", "alt", 'a "b"') in shown.attributes
    assert "://" not in page("T", "s", "b")
