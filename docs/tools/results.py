"""Hook of MkDocs: tables that runs wrote (docs/results) are linked from pages, and not found by the search."""

from typing import Any

from mkdocs.structure.pages import Page


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leave the page out of the search index if a run wrote it."""
    if page.file.src_uri.startswith("results/"):
        page.meta["search"] = {"exclude": True}
    return markdown
