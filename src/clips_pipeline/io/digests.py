"""Digests of files and of plain values."""

import hashlib
import json
from pathlib import Path
from typing import Any


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of the content of a file, hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def json_sha256(value: Any) -> str:
    """Return the SHA-256 of a plain value, hexadecimal. The order of the keys of a mapping does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
