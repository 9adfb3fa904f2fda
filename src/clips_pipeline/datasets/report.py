"""A catalog type for HTML reports, whose first lines kedro-viz shows."""

from kedro_datasets._typing import HTMLPreview

from clips_pipeline.datasets.folder import PathDataset
from clips_pipeline.reports.page import summary_of


class ReportDataset(PathDataset):
    """A page of `reports.page`, handed on as its path."""

    def preview(self) -> HTMLPreview:
        """The page's summary: kedro-viz finds the kind of preview by the type that stands here, and cleans the HTML."""
        return HTMLPreview(summary_of(self.load().read_text(encoding="utf-8")))
