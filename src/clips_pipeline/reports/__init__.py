"""HTML reports rendered with Jinja2: page layout, data health report, and model reports."""

__all__ = ["data", "figure", "model", "page", "search_results", "suite_results"]
