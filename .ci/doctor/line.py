"""One line of the answer, and how checks start programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
OK, WARN, ERROR = "ok", "warn", "error"


class Line(NamedTuple):
    """One line of the answer: `ok`, `warn` or `error`, what was checked, what was found, and what to do about it."""

    level: str
    name: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<6} {self.name:<16} {self.found}{': ' + self.remedy if self.remedy else ''}"


def run(command: list[str], seconds: float = 20.0, **environment: str) -> subprocess.CompletedProcess[str] | None:
    """Run a program; None if it is absent, fails to start or takes too long."""
    try:
        return subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, **environment},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
