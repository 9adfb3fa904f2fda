"""Kedro-Viz gets a report's summary as its preview, and nothing else."""

import base64
import inspect
import re
from pathlib import Path

import pytest
from kedro.io import DatasetError

from clips_pipeline.datasets.report import ImageFileDataset, ReportDataset
from clips_pipeline.reports.page import environment, write_page


def page(summary: str) -> str:
    frame = '{% extends "page.html" %}{% block summary %}<p>{{ words }}</p>{% endblock %}'
    return environment().from_string(frame).render(title="T", sections={}, words=summary)


def test_the_preview_is_the_summary(tmp_path: Path) -> None:
    file = write_page(page("<b> first"), tmp_path / "report.html")
    dataset = ReportDataset(filepath=str(file), made_by="prepare")
    assert dataset.load() == file
    assert dataset.preview() == "<p>&lt;b&gt; first</p>"
    # Kedro-Viz chooses the kind of preview by this annotation.
    assert inspect.signature(dataset.preview).return_annotation.__name__ == "HTMLPreview"


def test_a_preview_is_not_parsed_as_markdown(tmp_path: Path) -> None:
    words = "mean_recall_at *x* `y` [z](javascript:alert(1)) __a__ **b**"
    file = write_page(page(words), tmp_path / "report.html")
    preview = ReportDataset(filepath=str(file), made_by="prepare").preview()
    assert preview.replace("\u2028", "") == f"<p>{words.replace('`', '’')}</p>"
    # Kedro-Viz's expression: a dot matches no line end.
    for marks in (r"_(.*?)_", r"\*(.*?)\*", r"`([^`]+)`", r"\[([^\]]+)\]\(([^)]+)\)"):
        assert not re.search(marks.replace(".", "[^\n\r\u2028\u2029]"), preview)
        assert re.search(marks, words)


def test_the_preview_of_an_image_is_the_image(tmp_path: Path) -> None:
    file = tmp_path / "figure.png"
    file.write_bytes(b"\x89PNG and so on")
    dataset = ImageFileDataset(filepath=str(file), made_by="evaluate")
    assert base64.b64decode(dataset.preview()) == file.read_bytes()
    assert inspect.signature(dataset.preview).return_annotation.__name__ == "ImagePreview"


def test_a_missing_report_names_its_pipeline(tmp_path: Path) -> None:
    dataset = ReportDataset(filepath=str(tmp_path / "none.html"), made_by="prepare")
    with pytest.raises(DatasetError, match="--pipelines prepare"):
        dataset.preview()
