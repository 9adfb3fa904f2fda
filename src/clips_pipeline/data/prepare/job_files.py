"""What a job leaves in the folder where shards are made, so that nobody needs to do it again.

.shards.partial/fingerprint                 what is being made; work towards something else is thrown away
.shards.partial/shards/                     what is put into place at the end
.shards.partial/shards/train/000003-000000.tar …   the shards of a job, where it writes any
.shards.partial/jobs/train/000003.rows      what is to be compared with other jobs: a row of numbers per sample, and its key
.shards.partial/jobs/train/000003.spans     where its samples stand in their tar files, as in `spans.bin`
.shards.partial/jobs/train/000003.json      its result: it is done when this is there
.shards.partial/jobs/train/000003.dropped.json   likewise, without the samples that earlier jobs have
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
"""A sample that is used: 64-bit hashes, and what the histograms count."""

Rows = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came of a job.

    Attributes:
        shards: with file names as they are for now; one of a shard in place.
        statistics: of its samples.
        examples: of samples left out.
    """

    shards: tuple[ShardEntry, ...]
    statistics: SplitStatistics
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of one job.

    Attributes:
        folder: where all is made.
        split: the job belongs to.
        number: of the job within its split, from 0.
        dropped: those of its second result, without the samples that earlier jobs have.
    """

    folder: Path
    split: Split
    number: int
    dropped: bool = False

    def shard(self, number: int) -> str:
        """Name of a tar file in the folder of its split."""
        return f"{self.number:06d}-{'d' if self.dropped else ''}{number:06d}.tar"

    def shard_file(self, name: str) -> Path:
        """Where it stands."""
        return self.folder / SHARDS / self.split / name

    @property
    def rows(self) -> Path:
        """The numbers and keys of the first result."""
        return self.folder / JOBS / self.split / f"{self.number:06d}.rows"

    def save_rows(self, rows: Rows, keys: list[str]) -> None:
        """Keep them; `rows` has the type `ROW`."""
        with replace_file(self.rows, sync=True) as temporary, temporary.open("wb") as file:
            np.save(file, rows)
            file.write("\n".join(keys).encode())

    def load_rows(self) -> Rows:
        """The numbers alone, mapped: only what is looked at is read."""
        return np.asarray(np.load(self.rows, mmap_mode="r", allow_pickle=False))

    def load_rows_and_keys(self) -> tuple[Rows, list[str]]:
        """Read both."""
        with self.rows.open("rb") as file:
            rows = np.asarray(np.load(file, allow_pickle=False))
            return rows, file.read().decode().split("\n") if len(rows) else []

    @property
    def spans(self) -> Path:
        """Of the samples of its shards, as `spans.to_bytes` makes them."""
        return self.rows.with_suffix(".dropped.spans" if self.dropped else ".spans")

    def save(self, result: JobResult, places: Spans) -> None:
        """Keep the result and the spans of its samples. Called last: from now on the job counts as done."""
        write_bytes(self.spans, to_bytes(places), sync=True)
        text = json.dumps(to_mapping(result), ensure_ascii=False, separators=(",", ":"))
        write_text(self._result, text, sync=True)

    def load(self) -> JobResult:
        """Read the result of a job that is done."""
        return read_json(JobResult, self._result, "run `kedro run --pipelines prepare` again")

    @property
    def is_done(self) -> bool:
        """Whether the job need not be done again."""
        # It is renamed into place after everything else has reached the disk, so one look is enough.
        return self._result.is_file()

    @property
    def _result(self) -> Path:
        return self.spans.with_suffix(".json")
