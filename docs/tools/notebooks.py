"""Hook of MkDocs: each notebook of `notebooks/` becomes a page under Tutorials, with the outputs that are stored in it.

nbconvert writes Markdown, so a notebook looks like the other pages, is found by the search, and its links are checked. Pages are
made only of notebooks that are there.
"""

import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import RegexRemovePreprocessor, TagRemovePreprocessor

FOLDER = Path("notebooks")
PAGES = "tutorials"


def notebooks(config: MkDocsConfig) -> list[Path]:
    """Return the notebooks of the project, sorted by name."""
    return sorted((Path(config.config_file_path).parent / FOLDER).glob("*.ipynb"))


def title(path: Path) -> str:
    """Return the first heading of a notebook, else its name in words."""
    for cell in nbformat.read(path, as_version=4).cells:
        for line in cell.source.splitlines() if cell.cell_type == "markdown" else ():
            if line.startswith("# "):
                return line.removeprefix("# ").strip()
    return path.stem.replace("_", " ")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the notebooks to the end of the tutorials in the navigation."""
    for part in config.nav or []:
        if "Tutorials" in part:
            part["Tutorials"] += [{title(path): f"{PAGES}/{path.stem}.md"} for path in notebooks(config)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and a file for each picture among its outputs."""
    for path in notebooks(config):
        text, pictures = to_markdown(path)
        files.append(File.generated(config, f"{PAGES}/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{PAGES}/{name}", content=content))
    return files


def to_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return the Markdown of a notebook, and the pictures of its outputs by name, in a folder named after the notebook."""
    exporter = MarkdownExporter()
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"remove-cell"}), enabled=True)
    exporter.register_preprocessor(RegexRemovePreprocessor(patterns=[r"\s*\Z"]), enabled=True)
    resources: dict[str, Any] = {"output_files_dir": path.stem, "unique_key": "output"}
    text, found = exporter.from_notebook_node(nbformat.read(path, as_version=4), resources)
    # Links of a notebook are right in its folder; those on its page start from `PAGES`.
    text = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text.replace("](../docs/", "](../"))
    return text, found["outputs"]
