"""kedro-viz finds the preview of a report, and is given nothing but its summary."""

import inspect
from pathlib import Path

import pytest
from kedro.io import DatasetError

from clips_pipeline.datasets.report import ReportDataset
from clips_pipeline.reports.page import page, text, write_page


def test_the_preview_is_the_summary(tmp_path: Path) -> None:
    file = write_page(page("T", f"<p>{text('<b>')} first</p>", "<p>the rest</p>"), tmp_path / "report.html")
    dataset = ReportDataset(filepath=str(file), made_by="prepare")
    assert dataset.load() == file
    assert dataset.preview() == "<p>&lt;b&gt; first</p>"
    # What kedro-viz goes by when it chooses how to show it.
    assert inspect.signature(dataset.preview).return_annotation.__name__ == "HTMLPreview"


def test_a_report_that_is_not_there_yet_names_its_pipeline(tmp_path: Path) -> None:
    dataset = ReportDataset(filepath=str(tmp_path / "none.html"), made_by="prepare")
    with pytest.raises(DatasetError, match="--pipelines prepare"):
        dataset.preview()
