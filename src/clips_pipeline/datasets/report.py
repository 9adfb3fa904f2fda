"""Catalog types for HTML reports and images, with previews for Kedro-Viz."""

import base64

from kedro_datasets._typing import HTMLPreview, ImagePreview

from clips_pipeline.datasets.folder import PathDataset
from clips_pipeline.reports.page import summary_of

_INVISIBLE_LINE_END = "\u2028"


class ReportDataset(PathDataset):
    """An HTML page written by `reports.page`, passed on as its path."""

    def preview(self) -> HTMLPreview:
        """Return the page's summary. Kedro-Viz recognizes the kind of preview by the return annotation, and sanitizes the HTML."""
        summary = summary_of(self.load().read_text(encoding="utf-8"))
        # Kedro-Viz sanitizes the HTML and then parses it as Markdown, line by line: `mean_recall` would get italics, and a caption
        # that looks like a link would become one, with any attributes. An invisible line end prevents both.
        for sign in ("_", "*", "]"):
            summary = summary.replace(sign, sign + _INVISIBLE_LINE_END)
        summary = summary.replace("`", "’")
        return HTMLPreview(summary)


class ImageFileDataset(PathDataset):
    """A PNG file, passed on as its path."""

    def preview(self) -> ImagePreview:
        """Return the image in base64 for Kedro-Viz."""
        return ImagePreview(base64.b64encode(self.load().read_bytes()).decode())
