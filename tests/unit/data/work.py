"""A source whose tasks record their start, and can be paused or killed by files."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.unit.data.samples import record

from clips_pipeline.data.shards.records import Record, Skip
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.sources.source import ShardTask, Source

SAMPLES = 5


@dataclass(frozen=True)
class WorkTask:
    number: int
    folder: str

    def records(self) -> Iterator[Record | Skip]:
        with Path(self.folder, f"begun-{self.number}").open("a") as started:
            started.write(f"{os.getpid()}\n")
        for at in range(SAMPLES):
            if at == 3:
                self._follow_files()
            # The second half of every task repeats images of the previous task.
            number = self.number * SAMPLES + at
            yield record(number, image=record(max(number - SAMPLES, 0)).image if at > 2 else record(number).image)

    def _follow_files(self) -> None:
        kill = Path(self.folder, f"kill-{self.number}")
        if kill.exists():
            left = int(kill.read_text()) - 1
            kill.write_text(str(left)) if left else kill.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        while Path(self.folder, f"hold-{self.number}").exists():
            time.sleep(0.02)


@dataclass
class WorkSource(Source):
    """Tasks of five samples each, controlled by files in `folder`."""

    folder: Path
    count: int = 6
    splits: tuple[Split, ...] = ("train",)

    def tasks(self, split: Split) -> list[ShardTask]:
        return [WorkTask(number, str(self.folder)) for number in range(self.count)]

    def fingerprint(self) -> str:
        return f"work {self.count}"

    def kill(self, number: int, times: int = 1) -> None:
        Path(self.folder, f"kill-{number}").write_text(str(times))

    def pause(self, number: int) -> Path:
        pause_file = Path(self.folder, f"hold-{number}")
        pause_file.touch()
        return pause_file

    def started(self, number: int) -> list[int]:
        """Return the ids of the processes that started the task, in order."""
        file = Path(self.folder, f"begun-{number}")
        return [int(line) for line in file.read_text().split()] if file.exists() else []


def wait_until(condition: object, seconds: float = 60.0) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
