"""Installation of published packages to compare with, without dependencies and outside our environments."""

import subprocess
import sys
from pathlib import Path

import pytest


def install(folder: Path, package: str) -> Path:
    """Install a package and return the folder to import it from; skip the test if this fails.

    Args:
        folder: to put it in.
        package: with its version, as `clip_benchmark==1.6.2`.
    """
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), package]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip(f"{package} cannot be installed here")
    return folder
