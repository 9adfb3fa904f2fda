"""Files of a job in the temporary folder of `prepare`; a job with a result is not run again.

.shards.partial/fingerprint                 fingerprint of the data; work for other data is deleted
.shards.partial/shards/                     becomes the folder of shards at the end
.shards.partial/shards/train/000003-000000.tar …   shards that the job writes, if any
.shards.partial/jobs/train/000003.rows      for comparison with other jobs: a row of numbers for each sample, and its
key .shards.partial/jobs/train/000003.spans     spans of its samples, as in `spans.bin`
.shards.partial/jobs/train/000003.json      its result, written last
.shards.partial/jobs/train/000003.dropped.json   its result without duplicates of earlier jobs
.shards.partial/jobs/train/000003.notes     where the job is, while it runs
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.config import read_json, to_mapping
from clips_pipeline.data.prepare.statistics import Example, SplitStatistics
from clips_pipeline.data.shards.index import ShardEntry
from clips_pipeline.data.shards.sample_offsets import to_bytes
from clips_pipeline.data.shards.splits import Split
from clips_pipeline.data.shards.tar_file import Spans
from clips_pipeline.io.atomic import replace_file, write_bytes, write_text

SHARDS, JOBS = "shards", "jobs"

ROW = np.dtype(
    [
        ("key", "<u8"),
        ("image", "<u8"),
        ("caption", "<u8"),
        ("image_width", "<u4"),
        ("image_height", "<u4"),
        ("image_bytes", "<u4"),
        ("web_characters", "<u4"),
        ("web_words", "<u4"),
        ("synthetic_characters", "<u4"),
        ("synthetic_words", "<u4"),
    ]
)
"""A used sample: 64-bit hashes, and the values that the histograms count."""

Rows = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class JobResult:
    """Result of a job.

    Attributes:
        shards: written shards with temporary file names, or the shard in place.
        statistics: statistics of its samples.
        examples: examples of samples left out.
    """

    shards: tuple[ShardEntry, ...]
    statistics: SplitStatistics
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class JobFiles:
    """Files of one job.

    Attributes:
        folder: temporary folder of `prepare`.
        split: split of the job.
        number: number of the job within its split, from 0.
        dropped: whether these are the files of the second result, without duplicates.
    """

    folder: Path
    split: Split
    number: int
    dropped: bool = False

    def shard(self, number: int) -> str:
        """Return the name of a tar file in the folder of its split."""
        return f"{self.number:06d}-{'d' if self.dropped else ''}{number:06d}.tar"

    def shard_file(self, name: str) -> Path:
        """Return the path of a tar file."""
        return self.folder / SHARDS / self.split / name

    @property
    def rows(self) -> Path:
        """File with the rows and keys of the first result."""
        return self.folder / JOBS / self.split / f"{self.number:06d}.rows"

    @property
    def notes(self) -> Path:
        """File with the notes of the watchdog while the job runs."""
        return self.rows.with_suffix(".notes")

    def save_rows(self, rows: Rows, keys: list[str]) -> None:
        """Write rows, of the type `ROW`, and keys."""
        with replace_file(self.rows, sync=True) as temporary, temporary.open("wb") as file:
            np.save(file, rows)
            file.write("\n".join(keys).encode())

    def load_rows(self) -> Rows:
        """Return the rows, memory-mapped: only the columns that are accessed are read."""
        return np.asarray(np.load(self.rows, mmap_mode="r", allow_pickle=False))

    def load_rows_and_keys(self) -> tuple[Rows, list[str]]:
        """Read both."""
        with self.rows.open("rb") as file:
            rows = np.asarray(np.load(file, allow_pickle=False))
            return rows, file.read().decode().split("\n") if len(rows) else []

    @property
    def spans(self) -> Path:
        """File with the spans of the samples, as `sample_offsets.to_bytes` returns them."""
        return self.rows.with_suffix(".dropped.spans" if self.dropped else ".spans")

    def save(self, result: JobResult, spans: Spans) -> None:
        """Write the result and the spans of its samples. Called last: afterwards the job is done."""
        write_bytes(self.spans, to_bytes(spans), sync=True)
        text = json.dumps(to_mapping(result), ensure_ascii=False, separators=(",", ":"))
        write_text(self._result, text, sync=True)

    def load(self) -> JobResult:
        """Read the result of a job that is done."""
        return read_json(JobResult, self._result, "run `kedro run --pipelines prepare` again")

    @property
    def is_done(self) -> bool:
        """Whether the result exists."""
        # The result is renamed into place after all other files have been synced, so its presence is sufficient.
        return self._result.is_file()

    @property
    def _result(self) -> Path:
        return self.spans.with_suffix(".json")
