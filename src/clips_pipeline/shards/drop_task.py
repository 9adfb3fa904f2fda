"""A job's result without the samples that earlier jobs have: its shards copied without them, or their spans left out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clips_pipeline.atomic import write_bytes
from clips_pipeline.shards import filters, records, spans
from clips_pipeline.shards.index import ShardEntry, digest_keys
from clips_pipeline.shards.job_files import JobFiles, JobResult
from clips_pipeline.shards.prepare_task import example, histograms, write_shards
from clips_pipeline.shards.records import Skip
from clips_pipeline.shards.statistics import EXAMPLES_PER_REASON, added
from clips_pipeline.shards.tar import TarFile
from clips_pipeline.shards.writer import WEB_FIELD, Sample

_DETAILS = {
    records.DUPLICATE_KEY: "an earlier sample of this split has this key",
    filters.DUPLICATE_IMAGE: "an earlier sample of this split has the same image",
    filters.DUPLICATE_CAPTION: "an earlier sample of this split has the same web caption",
}


@dataclass(frozen=True, slots=True)
class DropJob:
    """Samples of one job to be left out.

    Attributes:
        files: of the job, which is done.
        shard: what examples call it.
        in_place: whether its shard is read where it is.
        samples_per_shard: as in the job.
        places: in the job's rows, by the reason why they are left out.
    """

    files: JobFiles
    shard: str
    in_place: bool
    samples_per_shard: int
    places: dict[str, NDArray[np.int64]]

    @property
    def is_done(self) -> bool:
        """Whether its result is there."""
        return self.files.is_done(dropped=True)


def run_drop_job(job: DropJob) -> None:
    """Keep a second result beside the first; files of an earlier attempt are replaced."""
    if job.is_done:
        return
    result = job.files.load()
    rows, keys = job.files.load_rows_and_keys()
    keep = np.ones(len(rows), np.bool_)
    counts: dict[str, int] = {}
    examples = list(result.examples)
    for reason, places in job.places.items():
        keep[places] = False
        if len(places):
            counts[reason] = len(places)
        for place in places[:EXAMPLES_PER_REASON].tolist():
            examples.append(example(job.files.split, job.shard, Skip(reason, keys[place], _DETAILS[reason])))
    kept = [key for key, use in zip(keys, keep.tolist(), strict=True) if use]
    if job.in_place:
        places = spans.from_bytes(job.files.spans().read_bytes())[keep]
        shards = [replace(shard, samples=len(kept), keys_digest=digest_keys(kept)) for shard in result.shards if kept]
    else:
        good = _remaining(job.files, result.shards, iter(keep.tolist()))
        shards, places = write_shards(good, job.files, job.samples_per_shard, dropped=True)
    write_bytes(job.files.spans(dropped=True), spans.to_bytes(places), sync=True)
    found = result.statistics
    bad = {reason: count for reason, count in counts.items() if reason == records.DUPLICATE_KEY}
    statistics = replace(
        found,
        kept=len(kept),
        skipped=added(found.skipped, bad),
        filtered=added(found.filtered, {reason: n for reason, n in counts.items() if reason not in bad}),
        histograms=histograms(rows[keep]),
    )
    job.files.save(JobResult(tuple(shards), statistics, tuple(examples)), dropped=True)


def _remaining(files: JobFiles, shards: tuple[ShardEntry, ...], keep: Iterator[bool]) -> Iterator[Sample]:
    """As they were written, without reading what is in them."""
    for shard in shards:
        with TarFile(files.shard_file(shard.path)) as tar:
            for row in range(shard.samples):
                if next(keep):
                    found = tar.read(row)
                    three = {found.extension: found.image, WEB_FIELD: found.text, "json": found.json}
                    yield {"__key__": found.key} | {e: content for e, content in three.items() if content is not None}
