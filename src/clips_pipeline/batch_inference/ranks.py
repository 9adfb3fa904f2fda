"""N processes with a copy of the model each, which share the parts of the work; and its estimated cost."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from joblib import cpu_count

from clips_pipeline.batch_inference.inputs import Item
from clips_pipeline.batch_inference.parts import ImageReader, Part
from clips_pipeline.data.prepare.executor import map_jobs
from clips_pipeline.evaluation.inference.embed import Embedder, decoding_threads, device_of_rank, iterate_batches
from clips_pipeline.interop.folder import load_model_folder
from clips_pipeline.io.terminal import duration_text
from clips_pipeline.progress import Stage, count_finished

log = logging.getLogger(__name__)


class Work(Protocol):
    """What is done with a batch and a part. Must be picklable."""

    @property
    def name(self) -> str:
        """Name of the pipeline, for messages."""
        ...

    @property
    def unit(self) -> str:
        """What is made, such as `captions`."""
        ...

    @property
    def model(self) -> Path:
        """Folder of the model."""
        ...

    @property
    def batch_size(self) -> int:
        """Images per forward pass."""
        ...

    def try_batch(self, embedder: Embedder, items: Sequence[Item], images: "torch.Tensor") -> None:
        """Do the computation for a batch and forget the result."""
        ...

    def run(self, embedder: Embedder, part: Part) -> None:
        """Do a part and save its result."""
        ...


@dataclass(frozen=True)
class RankJob:
    """The parts of one process: a job of `data.prepare.executor`, started again if it is killed.

    Attributes:
        rank: number of the process.
        ranks: number of processes.
        parts: its parts.
        work: what is done.
        device: as in the configuration.
    """

    rank: int
    ranks: int
    parts: tuple[Part, ...]
    work: Work
    device: str

    @property
    def is_done(self) -> bool:
        """Whether all parts are done."""
        return all(part.is_done for part in self.parts)

    @property
    def progress(self) -> None:
        """None: there is no watchdog."""


def run_ranks(work: Work, parts: Sequence[Part], *, device: str, processes: int) -> None:
    """Do all parts that are not done, after the estimated cost is logged.

    Args:
        work: what is done.
        parts: all parts.
        device: a torch device name, or `auto`; with `auto` or `cuda`, each process takes the next GPU.
        processes: number of processes; 1 works in this one.

    Raises:
        ConfigError: processes are killed again and again, or the model cannot be loaded.
        OSError: the disk is full; finished parts are kept.
    """
    pending = [part for part in parts if not part.is_done]
    if len(pending) < len(parts):
        log.info("%s: %d of %d shards are done already", work.name, len(parts) - len(pending), len(parts))
    if not pending:
        return
    ranks = min(processes, len(pending))
    open_model.cache_clear()  # another model may be in the folder by now
    _log_cost(work, pending, device, ranks)
    jobs = [RankJob(rank, ranks, tuple(pending[rank::ranks]), work, device) for rank in range(ranks)]
    stage = Stage(work.name, len(parts), "shards", done=len(parts) - len(pending))
    with stage, count_finished(stage, pending):
        map_jobs(run_rank, jobs, processes=ranks)


def run_rank(job: RankJob) -> None:
    """Do the parts of one process."""
    device = device_of_rank(job.device, job.rank)
    if job.ranks > 1 and device.type == "cpu":
        torch.set_num_threads(max(1, cpu_count() // job.ranks))
    embedder = open_model(job.work.model, device, job.work.batch_size, job.ranks)
    for part in job.parts:
        if not part.is_done:
            job.work.run(embedder, part)


@lru_cache(maxsize=1)
def open_model(folder: Path, device: torch.device, batch_size: int, ranks: int) -> Embedder:
    """Load a model once per process, of which there are `ranks`."""
    loaded = load_model_folder(folder)
    threads = decoding_threads(device, cpu_count() // ranks)
    return Embedder(
        loaded.model, loaded.image_transform, loaded.tokenizer, batch_size=batch_size, device=device, threads=threads
    )


def _log_cost(work: Work, pending: Sequence[Part], device: str, ranks: int) -> None:
    """Measure the first batch and log how long all pending parts take, so that a wrong choice is seen at once."""
    embedder = open_model(work.model, device_of_rank(device, 0), work.batch_size, ranks)
    started = time.perf_counter()
    batch = next(iterate_batches(ImageReader(pending[0].task, embedder).read(), work.batch_size), None)
    if batch is None:
        return  # no usable sample in the first shard; the run counts why
    items, images = [item for item, _ in batch], torch.stack([image for _, image in batch])
    read_seconds = time.perf_counter() - started
    work.try_batch(embedder, items[:1], images[:1])  # the first pass is slower than all others
    started = time.perf_counter()
    work.try_batch(embedder, items, images)
    seconds = read_seconds + time.perf_counter() - started
    rate = len(batch) / seconds
    known = [part.task.samples for part in pending]
    what = f"{work.name}: {rate:,.3g} {work.unit}/s of one process on {embedder.device} (first batch of {len(batch)})"
    if any(count is None for count in known):
        log.info(
            "%s; %d shards of unknown size, each 1,000 samples take %s", what, len(pending), duration_text(1000 / rate)
        )
        return
    total = sum(count or 0 for count in known)
    took = duration_text(total / rate / ranks)
    log.info("%s; %d samples in %d shards take about %s with %d processes", what, total, len(pending), took, ranks)
