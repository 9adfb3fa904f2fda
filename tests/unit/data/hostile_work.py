"""Samples that hang or kill the process that reads or checks them, as a fault of a decoder in C does."""

import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.unit.data.samples import record

from clips_pipeline.data.shards.records import Record, SampleFields, Skip
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.in_place import TarTask
from clips_pipeline.data.sources.source import ShardTask, Source
from clips_pipeline.data.storage.files import Storage

SAMPLES = 6


def hang() -> None:
    """Sleep in C without releasing the interpreter's lock: no exception and no other thread can end it."""
    ctypes.PyDLL(None).sleep(600)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(times: Path) -> None:
    """End the process as often as the file says."""
    left = int(times.read_text()) if times.exists() else 0
    if left:
        times.write_text(str(left - 1))
        die()


class HostileText(str):
    """A caption on which the checks of `prepare` hang, or are killed."""

    def __new__(cls, text: str, fault: str) -> "HostileText":
        made = super().__new__(cls, text)
        made.fault = fault
        return made

    fault: str

    def __reduce__(self) -> tuple[object, ...]:
        return HostileText, (str(self), self.fault)

    def strip(self, *arguments: object) -> str:
        act(self.fault)
        return str(self).strip()


def act(fault: str) -> None:
    if fault == "hang":
        hang()
    elif fault == "die":
        die()
    elif fault.startswith("leave "):
        leave(Path(fault.removeprefix("leave ")))


@dataclass(frozen=True)
class HostileTask:
    """Six samples; `checked` and `read` say what happens while a sample is checked, and before it is read."""

    number: int
    checked: dict[int, str]
    read: dict[int, str]

    def records(self) -> Iterator[Record | Skip]:
        for at in range(SAMPLES):
            act(self.read.get(at, ""))
            number = self.number * SAMPLES + at
            yield record(number, web_caption=HostileText(f"web {number}", self.checked.get(at, "")))


@dataclass(frozen=True)
class HostileTarTask(TarTask):
    """A shard in place, with faults by row."""

    faults: tuple[tuple[int, str], ...] = ()

    def read(self, tar: object, row: int) -> Record:
        act(dict(self.faults).get(row, ""))
        return super().read(tar, row)  # type: ignore[arg-type]


@dataclass
class HostileSource(Source):
    """Three tasks, of which the second has the faults; with `shards`, they are tar files in place."""

    checked: dict[int, str]
    read: dict[int, str]
    shards: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ("train",)

    def tasks(self, split: Split) -> list[ShardTask] | list[TarTask]:  # type: ignore[override]
        if self.shards:
            faults = tuple(self.read.items())
            return [
                HostileTarTask(shard, SampleFields(), Storage(), faults=faults if number == 1 else ())
                for number, shard in enumerate(self.shards)
            ]
        return [
            HostileTask(number, self.checked if number == 1 else {}, self.read if number == 1 else {})
            for number in range(3)
        ]

    def fingerprint(self) -> str:
        return "hostile"
