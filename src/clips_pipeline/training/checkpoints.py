"""Finding the newest checkpoint that can be resumed."""

import re
import zipfile
from pathlib import Path

FILENAME = "ba{batch}-rank{rank}.pt"
_PATTERN = re.compile(r"ba(\d+)-rank0\.pt")


def newest_complete(folder: Path) -> Path | None:
    """The checkpoint of the latest step that was written to its end, or None.

    A torch file is a zip archive whose directory stands at its end: a write that was cut short has none.
    """
    found = [(int(match[1]), path) for path in folder.glob("*.pt") if (match := _PATTERN.fullmatch(path.name))]
    for _, path in sorted(found, reverse=True):
        if zipfile.is_zipfile(path):
            return path
    return None
