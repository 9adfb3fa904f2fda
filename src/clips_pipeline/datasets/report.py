"""Catalog types for HTML reports and pictures, which kedro-viz shows."""

import base64

from kedro_datasets._typing import HTMLPreview, ImagePreview

from clips_pipeline.datasets.folder import PathDataset
from clips_pipeline.reports.page import summary_of

_INVISIBLE_LINE_END = "\u2028"


class ReportDataset(PathDataset):
    """A page of `reports.page`, handed on as its path."""

    def preview(self) -> HTMLPreview:
        """The page's summary: kedro-viz finds the kind of preview by the type that stands here, and cleans the HTML."""
        summary = summary_of(self.load().read_text(encoding="utf-8"))
        # Kedro-Viz cleans the HTML and only then reads it as Markdown, line by line, which gives `mean_recall` italics and makes a
        # link, with whatever attributes, of a caption that looks like one. An end of line that nobody sees stops both.
        for sign in ("_", "*", "]"):
            summary = summary.replace(sign, sign + _INVISIBLE_LINE_END)
        summary = summary.replace("`", "’")
        return HTMLPreview(summary)


class ImageFileDataset(PathDataset):
    """A PNG file, handed on as its path."""

    def preview(self) -> ImagePreview:
        """The picture: kedro-viz takes it as base64."""
        return ImagePreview(base64.b64encode(self.load().read_bytes()).decode())
