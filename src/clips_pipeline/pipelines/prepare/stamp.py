"""Stamps: of which facts a file or folder was made, so that making it again can be left out.

A stamp stands beside what it vouches for, so that it travels neither with an exported model nor through DVC.
"""

import hashlib
import json
from pathlib import Path
from typing import Any


def stamp_file(made: Path) -> Path:
    """Where the stamp of `made` stands."""
    return made.with_name(f".{made.name}.stamp")


def stamp(made: Path, facts: dict[str, Any]) -> None:
    """Remember the facts. Call it last: what has no stamp is made again."""
    stamp_file(made).write_text(json.dumps({"facts": facts, "contents": contents(made)}, indent=1, sort_keys=True))


def is_stamped(made: Path, facts: dict[str, Any]) -> bool:
    """Whether `made` exists, was made of `facts`, and holds what it held then."""
    try:
        found = json.loads(stamp_file(made).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return made.exists() and found == {"facts": facts, "contents": contents(made)}


def contents(made: Path) -> dict[str, str]:
    """sha256 of a file, or of every file of a folder, by name."""
    files = sorted(path for path in made.rglob("*") if path.is_file()) if made.is_dir() else [made]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()}
