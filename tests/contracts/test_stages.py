"""`dvc.yaml` of this repository is what its graph says, and a changed parameter touches the stages that read it, no other."""

import subprocess
import sys
from pathlib import Path


def test_our_stages_are_what_the_graph_says(repository: Path) -> None:
    command = [sys.executable, "-m", "kedro", "dvc", "check"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
