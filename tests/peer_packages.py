"""Published code to be equal to, without what it would install beside itself, and in no environment of ours."""

import subprocess
import sys
from pathlib import Path

import pytest


def installed(folder: Path, package: str) -> Path:
    """Where the package can now be imported from; skips the test where it cannot be installed.

    Args:
        folder: to put it in.
        package: with its version, as `clip_benchmark==1.6.2`.
    """
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), package]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip(f"{package} cannot be installed here")
    return folder
