"""All models on all sets: processes that share the work, one result file per model and set.

Every process goes through all pending results, the largest sets first, and takes each that no other process holds. A lock is
released when its process ends, even if it is killed, so several machines with one file system can work together as well.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from joblib import cpu_count

from clips_pipeline.config import ConfigError
from clips_pipeline.data.prepare.executor import map_jobs
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.evaluation.inference.embed import TowerEmbedder, decoding_threads, device_of_rank, pick_device
from clips_pipeline.evaluation.inference.embedding_cache import EmbeddingCache
from clips_pipeline.evaluation.model_loading import load_embedder
from clips_pipeline.evaluation.suite.config import SetConfig, SuiteConfig
from clips_pipeline.evaluation.suite.measure import (
    BF16,
    FP32,
    SetResult,
    in_precision,
    measure_set,
    result_fingerprint,
)
from clips_pipeline.evaluation.suite.sets import AbsentSet, OpenSet, open_set
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.io.file_lock import try_lock_target
from clips_pipeline.progress import Stage, count_finished

log = logging.getLogger(__name__)

_WAIT_S = 0.5
_LOG_INTERVAL_S = 30.0
_MOST_OPENED = 8
_opened: dict[tuple[str, SetConfig], OpenSet] = {}  # sets of this process


@dataclass(frozen=True)
class SuiteModel:
    """A model of the suite, on this machine.

    Attributes:
        name: name in the table.
        path: folder or checkpoint file.
        architecture: open_clip's name of the checkpoint's architecture.
        digest: digest of its files.
    """

    name: str
    path: Path
    architecture: str | None
    digest: str

    @classmethod
    def at(cls, name: str, path: Path, architecture: str | None = None) -> "SuiteModel":
        """Return a model with the digest of its files.

        Raises:
            ConfigError: there are no files.
        """
        return cls(name, path, architecture, model_digest(path))


@dataclass(frozen=True)
class Task:
    """One result: a model on a set.

    Attributes:
        set_name, config: the set.
        model: the model.
        result: file of the result.
    """

    set_name: str
    config: SetConfig
    model: SuiteModel
    result: Path

    @property
    def is_done(self) -> bool:
        """Whether the result exists; it is written last."""
        return self.result.is_file()


@dataclass(frozen=True)
class SuiteRank:
    """One process: a job of `data.prepare.executor`, started again if it is killed.

    Attributes:
        rank: number of the process.
        ranks: number of processes.
        tasks: all results, in the order in which they are tried.
        storage: access to remote sets.
        batch_size: images or texts per forward pass.
        device: as in the configuration.
        precision: `fp32` or `bf16`.
        folder: folder of results.
        cache: folder of the embedding cache; None for none.
    """

    rank: int
    ranks: int
    tasks: tuple[Task, ...]
    storage: Storage
    batch_size: int
    device: str
    precision: str
    folder: Path
    cache: Path | None

    @property
    def is_done(self) -> bool:
        """Whether all results exist."""
        return all(task.is_done for task in self.tasks)

    @property
    def progress(self) -> None:
        """None: there is no watchdog."""


@dataclass(frozen=True)
class SuiteOutcome:
    """All results of a suite.

    Attributes:
        models: the models, in the order of the configuration.
        present: the sets that are here.
        absent: the sets that are not.
        results: file of each result, by set and by digest of the model.
        precision: precision of the towers.
        device: type of the device.
    """

    models: tuple[SuiteModel, ...]
    present: tuple[OpenSet, ...]
    absent: tuple[AbsentSet, ...]
    results: Mapping[tuple[str, str], Path]
    precision: str
    device: str

    def load(self, set_name: str, model: SuiteModel) -> SetResult:
        """Return the result of a model on a set.

        Raises:
            ConfigError: the file is damaged.
        """
        return SetResult.load(self.results[set_name, model.digest])


def run_suite(
    config: SuiteConfig, models: Sequence[SuiteModel], storage: Storage, folder: Path, cache: Path | None
) -> SuiteOutcome:
    """Compute the results that are missing.

    Args:
        config: sets and parameters.
        models: the models.
        storage: access to remote sets.
        folder: folder of results; results of an earlier run of the same models on the same sets are used.
        cache: folder of the embedding cache; None for none.

    Raises:
        ConfigError: a set is damaged or has other counts than published, a model cannot be loaded, or processes are killed again
            and again.
        StorageError: a remote set cannot be reached.
    """
    opened = [open_set(name, found, storage) for name, found in config.chosen_sets().items()]
    present = tuple(one for one in opened if isinstance(one, OpenSet))
    absent = tuple(one for one in opened if isinstance(one, AbsentSet))
    if absent:
        log.warning("suite: absent, with the reasons in the table: %s", ", ".join(one.name for one in absent))
    device = pick_device(config.device)
    precision = (BF16 if device.type == "cuda" else FP32) if config.precision == "auto" else config.precision
    results = {
        (one.name, model.digest): folder
        / "results"
        / f"{one.name}-{result_fingerprint(one.identity, one.config, model.digest, device.type, precision)[:24]}.json"
        for one in present
        for model in models
    }
    # One model after the other, so that each process loads it once; the largest sets first, so that none is left for the end.
    largest = sorted(present, key=lambda one: -one.weight)
    tasks = [
        Task(one.name, one.config, model, results[one.name, model.digest])
        for model in {model.digest: model for model in models}.values()
        for one in largest
    ]
    pending = tuple(task for task in tasks if not task.is_done)
    log.info("suite: %d of %d results exist; %d sets are absent", len(tasks) - len(pending), len(tasks), len(absent))
    if pending:
        open_embedder.cache_clear()
        _opened.clear()
        (folder / "results").mkdir(parents=True, exist_ok=True)
        ranks = min(_processes(config, device), len(pending))
        jobs = [
            SuiteRank(rank, ranks, pending, storage, config.batch_size, config.device, precision, folder, cache)
            for rank in range(ranks)
        ]
        stage = Stage("suite", len(tasks), "results", done=len(tasks) - len(pending))
        with stage, count_finished(stage, pending):
            map_jobs(run_rank, jobs, processes=ranks)
    return SuiteOutcome(tuple(models), present, absent, results, precision, device.type)


def run_rank(job: SuiteRank) -> None:
    """Compute results until all exist; wait for those that other processes hold."""
    device = device_of_rank(job.device, job.rank)
    if job.ranks > 1 and device.type == "cpu":
        torch.set_num_threads(max(1, cpu_count() // job.ranks))
    while not job.is_done:
        if not any(_try_task(job, task, device) for task in job.tasks if not task.is_done):
            time.sleep(_WAIT_S)


def _try_task(job: SuiteRank, task: Task, device: torch.device) -> bool:
    """Compute a result unless another process holds it; return whether it was computed here."""
    with try_lock_target(task.result) as free:
        if free and not task.is_done:
            started = time.monotonic()
            _run_task(job, task, device)
            log.info("suite: %s, %s: done in %.1f s", task.model.name, task.set_name, time.monotonic() - started)
        return free


def _run_task(job: SuiteRank, task: Task, device: torch.device) -> None:
    opened = reopen(task.set_name, task.config, job.storage)
    threads = decoding_threads(device, cpu_count() // job.ranks)
    embedder = open_embedder(task.model, device, job.batch_size, job.precision, threads)
    model = task.model.digest if job.precision == FP32 else f"{task.model.digest} {job.precision}"
    cache = EmbeddingCache(job.cache, model, device.type, opened.identity)
    measure_set(opened, embedder, cache, task.model.digest, job.folder / "versions").save(task.result)


def reopen(name: str, config: SetConfig, storage: Storage) -> OpenSet:
    """Open a set that the parent process has checked, once for several models.

    Raises:
        ConfigError: it is not there any more.
    """
    key = name, config
    if key not in _opened:
        found = open_set(name, config, storage)
        if isinstance(found, AbsentSet):
            raise ConfigError(f"suite.sets.{name}: {found.reason}; it was there when the run began, run it again")
        if len(_opened) >= _MOST_OPENED:
            _opened.clear()
        _opened[key] = found
    return _opened[key]


@lru_cache(maxsize=1)
def open_embedder(
    model: SuiteModel, device: torch.device, batch_size: int, precision: str, threads: int = 1
) -> TowerEmbedder:
    """Load a model once per process, without its captioner's work.

    Raises:
        ConfigError: the model cannot be loaded, or has no text tower.
    """
    config = EvaluationConfig(
        batch_size=batch_size, device="cpu", architecture=model.architecture, model=str(model.path)
    )
    loaded = load_embedder(model.path, config)
    if not loaded.reads_text:
        raise ConfigError(f"suite.models: {model.name} has no text tower, and all sets need one; leave it out")
    towers = in_precision(loaded.towers, precision, device)
    return TowerEmbedder(towers, batch_size=batch_size, device=device, threads=threads)


def _processes(config: SuiteConfig, device: torch.device) -> int:
    if config.processes is not None:
        return config.processes
    return torch.cuda.device_count() if device.type == "cuda" and ":" not in config.device else 1
