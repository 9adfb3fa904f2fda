"""Processes of `benchmarks.step`, one for each side, which make their timed steps when they are told to."""

import json
import subprocess
import sys
from typing import Any


class _Side:
    """The process of one side, which waits before each timed step; the warm-up is done when it has been made."""

    def __init__(self, request: tuple[Any, ...]) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.step", "--measure", json.dumps(request)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line = self._read()

    def step(self) -> None:
        """Let it make one step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._line = self._read()

    def result(self) -> dict[str, Any]:
        """Return what it has measured, after its last step."""
        self._process.communicate()
        found: dict[str, Any] = json.loads(self._line)
        return found

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with {self._process.wait()}")
        return line


def run_sides(requests: dict[str, tuple[Any, ...]], steps: int, *, in_turns: bool) -> dict[str, dict[str, Any]]:
    """Measure all sides once: in turns, or one after the other.

    Args:
        requests: the arguments of `benchmarks.step.measure` by side.
        steps: timed steps of each.
        in_turns: whether all run at the same time, one step each in turn.
    """
    found: dict[str, dict[str, Any]] = {}
    for group in [list(requests)] if in_turns else [[side] for side in requests]:
        running = {side: _Side(requests[side]) for side in group}
        for _ in range(steps):
            for process in running.values():
                process.step()
        found |= {side: process.result() for side, process in running.items()}
    return found
