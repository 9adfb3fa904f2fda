"""Run the trainings of a study in parallel, each once. A second start resumes an interrupted study."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.storage.files import StorageOptions
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.progress import Stage
from clips_pipeline.study.job import write_job
from clips_pipeline.study.plan import Case
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.launch.interrupt import PARENT, InterruptHandler, exit_code_after
from clips_pipeline.training.launch.result import TrainingFailedError, TrainingInterruptedError
from clips_pipeline.training.run_spec import STORAGE_OPTIONS, RunSpec

log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_LAST_LINES = 3


_MODULE = "clips_pipeline.study.job"


class StudyError(TrainingFailedError):
    """Some trainings failed; the results of the others are kept."""


@dataclass(frozen=True)
class RunResult:
    """Metrics and speed of one case with one seed, and the folder of its model."""

    case: Case
    seed: int
    metrics: dict[str, float]
    samples_per_s: float | None
    model_folder: Path


def run_all(
    cases: Sequence[Case],
    seeds: Sequence[int],
    parallel_runs: int | None,
    hours: float | None,
    spec_of: Callable[[TrainConfig], RunSpec],
    evaluation: EvaluationConfig,
    folder: Path,
    storage_options: StorageOptions | None = None,
    group: str = "study",
) -> tuple[list[RunResult], int, int]:
    """Train and evaluate every case with every seed, one seed after the other.

    Args:
        cases: rows of all comparisons.
        seeds: seeds of each case.
        parallel_runs: number of processes that train at the same time; None runs one per core.
        hours: no training starts later than this many hours after the start; None sets no limit.
        spec_of: builds the run spec of a training, without a run folder.
        evaluation: what to measure after each training.
        folder: contains jobs, runs and results; a training with a result here is not run again.
        storage_options: credentials for remote shards, as in `launch`.
        group: parameter group with `hours`, for messages.

    Returns:
        the results, the number of finished trainings, and the number of all trainings.

    Raises:
        StudyError: some trainings failed, raised after all others were tried, with their names; or there is no result.
        TrainingInterruptedError: this process received SIGTERM.
    """
    cores = len(os.sched_getaffinity(0))
    parallel_runs = min(parallel_runs or cores, len(cases) * len(seeds))
    planned: list[tuple[Case, int, Path, Path]] = []
    jobs: dict[Path, Path] = {}
    for case, seed, spec, shards in _plan_runs(cases, seeds, max(1, cores // parallel_runs), spec_of, folder):
        name = f"{spec.fingerprint}-{evaluation.set_name}-{evaluation.split}"
        result = folder / "results" / f"{name}.json"
        planned.append((case, seed, result, Path(spec.model_folder)))
        if not result.is_file() and result not in jobs:
            jobs[result] = folder / "jobs" / f"{name}.json"
            write_job(jobs[result], spec, evaluation, result, shards)
    (folder / "results").mkdir(parents=True, exist_ok=True)
    distinct = len({result for _, _, result, _ in planned})
    log.info(
        "%d trainings, %d of them done; running up to %d in parallel", distinct, distinct - len(jobs), parallel_runs
    )
    stage = Stage(group, distinct, "trainings", done=distinct - len(jobs))
    failed = run_jobs(list(jobs.values()), parallel_runs, hours, storage_options, stage=stage)
    if failed:
        raise StudyError(
            f"{len(failed)} of {distinct} trainings failed; the results of the others are kept. Run the same command to retry:\n"
            + "\n".join(failed)
        )
    finished = {result for _, _, result, _ in planned if result.is_file()}
    if not finished:
        raise StudyError(f"{group}.hours: {hours:g} was too short for any of the {distinct} trainings; raise it")
    if len(finished) < distinct:
        log.warning(
            "%s.hours: the time is used up with %d of %d trainings done; run the same command to continue",
            group,
            len(finished),
            distinct,
        )
    return (
        [_read_result(case, seed, result, model) for case, seed, result, model in planned if result in finished],
        len(finished),
        distinct,
    )


def _plan_runs(
    cases: Sequence[Case],
    seeds: Sequence[int],
    threads: int,
    spec_of: Callable[[TrainConfig], RunSpec],
    folder: Path,
) -> Iterator[tuple[Case, int, RunSpec, str]]:
    """Yield every case with every seed, each in its own run folder, and the shards to evaluate on.

    The folder is named by the fingerprint, so two trainings that differ only in their samples never resume each other.
    """
    for seed in seeds:
        for case in cases:
            launch = replace(case.train.launch, processes=1, start=True, threads=threads)
            spec = spec_of(replace(case.train, seed=seed, launch=launch))
            usual = spec.shards
            if case.shards is not None:
                # Absolute, because the job is another process; the version is part of the fingerprint.
                shards = Path(case.shards).absolute()
                spec = replace(spec, shards=str(shards), data_version=load_index(shards).version)
            runs, models = folder / "runs" / spec.fingerprint, folder / "models" / spec.fingerprint
            yield case, seed, replace(spec, run_folder=str(runs), model_folder=str(models)), usual


def run_jobs(
    jobs: list[Path],
    parallel_runs: int,
    hours: float | None,
    options: StorageOptions | None,
    module: str = _MODULE,
    stage: Stage | None = None,
) -> list[str]:
    """Run jobs in processes of their own.

    Args:
        jobs: job files.
        parallel_runs: number of processes at the same time.
        hours: no job starts later than this many hours after the start; None sets no limit.
        options: credentials for remote shards.
        module: the module that runs a job file.
        stage: counts the jobs that have ended.

    Returns:
        the messages of the jobs that failed.

    Raises:
        TrainingInterruptedError: this process received SIGTERM or Ctrl-C; the jobs have ended.
    """
    waiting, running, failed = list(jobs), dict[Path, subprocess.Popen[bytes]](), list[str]()
    stage = stage or Stage(module, len(jobs), "jobs")
    environment = {**os.environ, PARENT: "1", **({STORAGE_OPTIONS: json.dumps(options)} if options else {})}
    interrupt = InterruptHandler()
    started = time.monotonic()
    try:
        with interrupt, stage:
            while (waiting or running) and not interrupt.interrupted:
                if hours is not None and time.monotonic() - started >= 3600 * hours:
                    waiting.clear()
                while waiting and len(running) < parallel_runs:
                    job = waiting.pop(0)
                    running[job] = _start(job, environment, module)
                for job, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[job]
                    process.communicate()  # close the pipe
                    if process.returncode:
                        failed.append(f"  {job}: {_last_lines(job.with_suffix('.log')) or process.returncode}")
                    stage.advance(note=f"{len(failed)} failed" if failed else None)
                time.sleep(_POLL_SECONDS)
    finally:
        # Also when this process is interrupted: each training writes a checkpoint and exits.
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
            process.communicate()
    if interrupt.interrupted:
        raise TrainingInterruptedError(
            f"interrupted by {interrupt.source}; running trainings have saved a checkpoint. Run the same command to resume",
            exit_code_after(interrupt.source),
        )
    return failed


def _start(job: Path, environment: dict[str, str], module: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, str(job)]
    with job.with_suffix(".log").open("wb") as output:
        # The pipe closes when this process ends, also when it is killed; the job then exits too.
        return subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
        )


def _last_lines(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-_LAST_LINES:])


def _read_result(case: Case, seed: int, path: Path, model_folder: Path) -> RunResult:
    found: dict[str, Any] = json.loads(path.read_text())
    return RunResult(case, seed, found["metrics"], found["samples_per_s"], model_folder)
