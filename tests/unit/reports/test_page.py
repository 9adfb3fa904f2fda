"""Layout of all reports: escaping of untrusted text, and number formats."""

import tomllib
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from tests.unit.reports.data.hostile_texts import TEXTS

from clips_pipeline.reports.page import (
    environment,
    escape_invisible,
    format_bytes,
    format_number,
    format_percent,
    shorten,
    summary_of,
    write_page,
)

FRAME = """{% extends "page.html" %}{% set sections = {"one": "First"} %}
{% block summary %}<p>{{ value }}</p>{% endblock %}
{% block one %}<p>{{ other }}</p>{% endblock %}"""


def shown(template: str, **values: object) -> str:
    return environment().from_string(template).render(values)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(str(html))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("value", TEXTS)
def test_hostile_text_is_escaped_everywhere(value: str) -> None:
    between = Page(shown("<p>{{ value }}</p>", value=value))
    assert between.tags == ["p"]
    inside = Page(shown('<p title="{{ value }}">', value=value))
    assert inside.tags == ["p"]
    assert [name for _, name, _ in inside.attributes] == ["title"]
    assert inside.attributes[0][2] == between.text
    if value.isprintable():
        assert between.text == value


def test_invisible_characters_are_escaped() -> None:
    assert escape_invisible("a\x00b\u202ec\u2066\ud800\uffff") == "a[U+0000]b[U+202E]c[U+2066][U+D800][U+FFFF]"
    assert escape_invisible("tab\tend\n") == "tab\tend\n"
    # Persian letters and family emoji need their joiners.
    assert escape_invisible("\u0645\u06cc\u200c\u062e 👨\u200d👩") == "\u0645\u06cc\u200c\u062e 👨\u200d👩"
    assert shown("{{ value }}", value="<\u202e>") == "&lt;[U+202E]&gt;"


def test_long_text_is_truncated_with_its_length() -> None:
    assert shorten("x" * 10_000, 3) == "xxx… (10,000 characters)"
    assert shorten("xxx", 3) == "xxx"
    # Truncated before escaping, so that no escape sequence is cut.
    assert shown("{{ value|shorten(2) }}", value="<<<<") == "&lt;&lt;… (4 characters)"


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="value"):
        shown("{{ value }}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (1234567, "1,234,567"), (5.3049, "5.3"), (0.01234, "0.0123"), (123.4, "123"), (99999.6, "100,000")],
)
def test_numbers(value: float, expected: str) -> None:
    assert format_number(value) == expected


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
def test_percentages_are_zero_only_for_zero(part: int, whole: int, expected: str) -> None:
    assert format_percent(part, whole) == expected


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
    assert format_bytes(value) == expected


def test_tables_have_headers_and_right_aligned_numbers() -> None:
    template = '{% from "macros.html" import table %}{{ table("C", head, rows, texts=2, foreign=[1], characters=5) }}'
    rows = [["a", "<b>", "1,000"], ["b", "7" * 6, "< 0.1 %"]]
    page = Page(shown(template, head=["split", "reason", "samples"], rows=rows))
    assert page.tags.count("th") == 3 + 2
    scopes = [value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")]
    assert scopes == ["col"] * 3 + ["row"] * 2
    classes = [(tag, value) for tag, name, value in page.attributes if name == "class" and tag in ("th", "td")]
    assert classes == [("th", "number"), *[("td", "foreign"), ("td", "number")] * 2]
    assert "<b>" in page.text
    assert "77777… (6 characters)" in page.text


def test_the_summary_is_extracted_from_any_page(tmp_path) -> None:
    for value in TEXTS:
        html = shown(FRAME, title=value, value=value, other=TEXTS[4])
        file = write_page(html, tmp_path / "new" / "page.html")
        assert summary_of(file.read_text(encoding="utf-8")) == shown("<p>{{ value }}</p>", value=value).strip()
    assert [file.name for file in file.parent.iterdir()] == ["page.html"]
    assert summary_of("<p>another page</p>") == ""


def test_pages_are_self_contained_without_scripts() -> None:
    html = shown(FRAME, title="T", value="s", other="b")
    page = Page(html)
    policy = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policy
    assert "://" not in html
    assert shown('{{ data|data_url("png") }}', data=b"123") == "data:image/png;base64,MTIz"


def test_every_link_within_a_page_leads_to_a_section() -> None:
    page = Page(shown(FRAME, title="T", value="s", other="b"))
    assert [value for _, name, value in page.attributes if name in ("href", "id")] == ["#one", "one"]


def test_an_installed_package_has_its_templates(repository: Path) -> None:
    patterns = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    templates = environment().list_templates()
    assert {"page.html", "style.css"} <= set(templates)
    for name in templates:
        assert any(fnmatch(f"reports/templates/{name}", pattern) for pattern in patterns["clips_pipeline"])
