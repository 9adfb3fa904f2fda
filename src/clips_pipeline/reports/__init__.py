"""HTML reports in Jinja2: the frame of all pages, the data health report, and the pages on a model."""

__all__ = ["data", "figure", "model", "page"]
