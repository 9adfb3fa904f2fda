"""Execute the notebooks and keep their outputs in them (`make notebooks`); the site shows them as they are."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
# In this order: the second one uses the model of the first.
NAMES = ("clips_in_15_minutes", "use_a_model")
CELL_S = 900
_TAG = re.compile(r"<[^>]*>")
_TIME = re.compile(r"\b\d\d:\d\d:\d\d\b ?")


def execute(file: Path) -> Any:
    """Execute a notebook in a kernel of this Python, in its own folder, and return it with its outputs.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(
        notebook,
        timeout=CELL_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(file.parent)}},
    ).execute()
    return notebook


def tidy(notebook: Any, root: Path) -> None:
    """Remove what differs from machine to machine: times of cells, the folder of the checkout, control characters."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if not _is_empty(output)]
        for output in cell.get("outputs", []):
            output.pop("metadata", None) if output.output_type == "stream" else None
            for holder in (output, output.get("data", {})):
                for kind in ("text", "text/plain", "text/html"):
                    if isinstance(holder.get(kind), str):
                        holder[kind] = _TIME.sub("", holder[kind].replace(f"{root}/", ""))


def _is_empty(output: Any) -> bool:
    """Return whether rich has shown an object as nothing, beside its picture."""
    data = output.get("data", {})
    return set(data) == {"text/html", "text/plain"} and not _TAG.sub("", data["text/html"]).strip()


def main() -> int:
    """Execute all notebooks in their folder and write them back."""
    for name in NAMES:
        file = FOLDER / f"{name}.ipynb"
        print(f"{file.relative_to(ROOT)} …", flush=True)
        notebook = execute(file)
        tidy(notebook, ROOT)
        text = nbformat.writes(notebook, version=4)
        file.write_text(json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n")
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
