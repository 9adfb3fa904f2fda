"""The event log: what a worker tells the world, one JSON object per line, appended by rank 0.

Kinds: `start` (sizes, FLOPs, chance losses), `changed` (parameters of a resumed run), `step` (losses, rates, share of time
spent waiting for data, a trace of the samples so far), `evaluation`, `captions` (files of examples), `checkpoint`, `damaged`
(a checkpoint refused by its checksum), `skips`, `stall` (a batch is overdue), `stop` (on request), `interrupted` (by a
signal), `restart` (the launcher has started the ranks again, and why), `error`, `end`.
The log belongs to the run, not to the process: a resumed worker goes on appending to it. Steps between the last
checkpoint and a crash are trained again and appear twice; `EventReader` hands each step out once.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clips_pipeline.io.disk_errors import write_error

Event = dict[str, Any]

STEP_NUMBERS = ("learning_rate", "logit_scale", "samples_per_s", "data_wait_share")
"""What a `step` event holds beside its losses."""


class EventWriter:
    """Appends events; nothing waits in a buffer, so a killed process loses none.

    Raises:
        CannotWriteError: here and in `write`, when the disk is full, or the like.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+", buffering=0)
        except OSError as error:
            raise write_error(path, error) from error
        # A process killed inside a write leaves half a line; ending it keeps the next event readable.
        self._torn = False
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            self._torn = self._file.read(1) != b"\n"

    def write(self, kind: str, **values: Any) -> None:
        """Append one event with the wall-clock time in seconds."""
        event = json.dumps({"kind": kind, "time": round(time.time(), 3), **values}, allow_nan=True)
        left = (b"\n" if self._torn else b"") + event.encode() + b"\n"
        self._torn = True
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise write_error(self._path, error) from error
        self._torn = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "EventWriter":
        """The writer itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()


class EventReader:
    """Reads complete new lines of a log that is being written.

    Args:
        path: the log; it may not exist yet.
        offset: bytes already read earlier.
        last_steps: per kind, the last step already handed out; `ONCE_PER_STEP` events at or before it are dropped.
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
                    continue  # half a line of a killed process
                kind, step = event["kind"], int(event.get("step", 0))
                if kind in self.ONCE_PER_STEP:
                    if step <= self.last_steps.get(kind, -1):
                        continue
                    self.last_steps[kind] = step
                yield event


def read_all(path: Path) -> list[Event]:
    """All events of a finished log, each step once."""
    return list(EventReader(path).read())
