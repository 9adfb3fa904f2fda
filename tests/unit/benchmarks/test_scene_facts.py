"""`benchmarks.scene_facts` runs as its page says, and what it measures is learned."""

import json
import subprocess
import sys
from pathlib import Path


def test_a_short_run(repository: Path) -> None:
    """Also with one seen fact, and with a fragment: 20 test scenes, so chance is 0.05."""
    command = [sys.executable, "-m", "benchmarks.scene_facts", "--scenes", "200", "20", "--samples", "3200", "--json"]
    options = ["--fragments", "whole", "--seen", "all", "backgrounds", "--seeds", "0"]
    done = subprocess.run([*command, *options], cwd=repository, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["seen"] for row in rows] == ["all", "backgrounds"]
    all_facts, backgrounds = (row["recall"] for row in rows)
    assert len(all_facts) == 3
    assert all_facts[-1] > 0.15
    assert all_facts[-1] > backgrounds[-1]
