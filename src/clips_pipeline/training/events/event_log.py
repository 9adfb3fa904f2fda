"""The event log `events.jsonl`: what rank 0 reports, one JSON object per line.

Kinds: `start` (sizes, FLOPs, chance losses, code, machine and versions), `changed` (parameters of a resumed run), `step` (losses,
rates, fraction of time spent waiting for data, trace of the samples so far), `evaluation`, `captions` (files of examples),
`checkpoint`, `damaged` (a checkpoint whose checksums do not hold), `skips` (skipped samples by reason), `stall` (a batch is
overdue), `stop` (on request), `interrupted` (by a signal), `restart` (the agent has restarted the ranks, and why), `error`
(`again`: it would occur again unless false), `end`.
The log belongs to the run, not to the process: a resumed rank appends to it. Steps between the last checkpoint and a crash are
trained again and appear twice; `EventReader` returns each step once.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clips_pipeline.io.disk_errors import write_error
from clips_pipeline.io.redact import redact_values

Event = dict[str, Any]

STEP_NUMBERS = ("learning_rate", "logit_scale", "samples_per_s", "data_wait_fraction")
"""Numbers of a `step` event besides its losses."""
HISTORY = ("start", "changed", "damaged", "restart", "interrupted", "stop", "error", "end")
"""Kinds of events that say how a training ran, apart from its curves."""
_FORMER_KEYS = {"data_wait_share": "data_wait_fraction"}
"""Keys that logs of before have, and their present names."""


class EventWriter:
    """Appends events without a buffer, so that a killed process loses none.

    Args:
        path: file of the log.

    Raises:
        CannotWriteError: here and in `write`, when the disk is full or failed.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+", buffering=0)
        except OSError as error:
            raise write_error(path, error) from error
        # A process killed during a write leaves a partial line. A line break after it keeps the next event readable.
        self._torn = False
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            self._torn = self._file.read(1) != b"\n"

    def write(self, kind: str, **values: Any) -> None:
        """Append one event with the wall-clock time in seconds. Texts are redacted."""
        event = json.dumps({"kind": kind, "time": round(time.time(), 3), **redact_values(values)}, allow_nan=True)
        remaining = (b"\n" if self._torn else b"") + event.encode() + b"\n"
        self._torn = True
        try:
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
        except OSError as error:
            raise write_error(self._path, error) from error
        self._torn = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "EventWriter":
        """Return the writer itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()


class EventReader:
    """Reads the new complete lines of a log that is being written.

    Args:
        path: file of the log; it may not exist yet.
        offset: bytes that were read earlier.
        last_steps: per kind, the last step that was returned; `ONCE_PER_STEP` events up to it are dropped.
    """

    ONCE_PER_STEP = ("step", "evaluation", "skips")

    def __init__(self, path: Path, offset: int = 0, last_steps: dict[str, int] | None = None):
        self.path = path
        self.offset = offset
        self.last_steps = dict(last_steps or {})

    def read(self) -> Iterator[Event]:
        """Yield the events that are complete and new."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                try:
                    event: Event = json.loads(line)
                except json.JSONDecodeError:
                    continue  # a partial line of a killed process
                for former in event.keys() & _FORMER_KEYS.keys():
                    event[_FORMER_KEYS[former]] = event.pop(former)
                kind, step = event["kind"], int(event.get("step", 0))
                if kind in self.ONCE_PER_STEP:
                    if step <= self.last_steps.get(kind, -1):
                        continue
                    self.last_steps[kind] = step
                yield event


def read_all(path: Path) -> list[Event]:
    """Return all events of a finished log, each step once."""
    return list(EventReader(path).read())
