"""Run the probes of all towers, each once. A second start resumes: finished probes are not run again."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from joblib import cpu_count

from clips_pipeline.config import ConfigError, digest_mapping
from clips_pipeline.data.scenes.source import ScenesConfig
from clips_pipeline.data.storage.files import StorageConfig, StorageOptions
from clips_pipeline.interop.folder import load_weights_folder
from clips_pipeline.llava.config import LlavaProbeConfig
from clips_pipeline.llava.features import check_layer, read_scenes, require_transformers
from clips_pipeline.llava.job import BLIND, UNTRAINED, ProbeJob, digest, methods_of
from clips_pipeline.llava.questions import balanced_questions
from clips_pipeline.progress import Stage
from clips_pipeline.study.run import StudyError, run_jobs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tower:
    """A trained tower: method, seed, model folder, and its mean recall@1."""

    method: str
    seed: int
    folder: Path
    recall: float


@dataclass(frozen=True)
class Probe:
    """Result of a probe.

    Attributes:
        row: method, `untrained` or `blind`.
        seed: seed of the probe.
        answers: answers to the test questions, in their order.
        validation: accuracy on the validation questions at each evaluation.
        seconds: duration of the training.
    """

    row: str
    seed: int
    answers: tuple[str, ...]
    validation: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class ProbeSetup:
    """What all probes share: configuration, data, and access to it. Fields as in `ProbeJob`."""

    config: LlavaProbeConfig
    scenes: ScenesConfig
    shards: Path
    data_version: str
    storage: StorageConfig
    shard_cache: Path


def check_probes(config: LlavaProbeConfig, scenes: ScenesConfig, shards: Path, remote: Any, depth: int) -> None:
    """Refuse probes that cannot work, before hours of training their towers.

    Args:
        config: configuration of the probes.
        scenes: the embedded data.
        shards: folder of its shards.
        remote: cache for shards in remote storage.
        depth: blocks of the vision towers.

    Raises:
        ConfigError: Transformers is not installed, the layer does not exist, there are too few questions, or the shards contain
            other scenes.
    """
    require_transformers()
    check_layer(config.vision_layer, depth)
    for split in ("train", "validation", "test"):
        balanced_questions(scenes, split, getattr(config.questions, split), config.questions.seed)
        read_scenes(shards, split, scenes, remote)


def plan_probes(towers: Sequence[Tower], setup: ProbeSetup, folder: Path) -> list[ProbeJob]:
    """Return the jobs: by seed, one for each tower, one for an untrained tower, and one without images.

    Raises:
        ConfigError: a tower is damaged, or lacks the layer.
    """
    jobs = []
    for seed in setup.config.seeds:
        own = [tower for tower in towers if tower.seed == seed]
        sizes = [_dimensions(tower, setup.config.vision_layer) for tower in own]
        rows = [(tower.method, tower.folder, tower.folder.name) for tower in own]
        if own:
            rows += [(UNTRAINED, own[0].folder, sizes[0]), (BLIND, own[0].folder, "")]
        for row, model, identity in rows:
            job = ProbeJob(
                row,
                seed,
                identity,
                str(model),
                setup.config,
                setup.scenes,
                str(setup.shards),
                setup.data_version,
                storage=setup.storage,
                shard_cache=str(setup.shard_cache),
            )
            jobs.append(replace(job, result=str(folder / "results" / f"{job.fingerprint}.json")))
    return jobs


def run_probes(
    towers: Sequence[Tower], setup: ProbeSetup, folder: Path, storage_options: StorageOptions | None = None
) -> list[Probe]:
    """Run the probes that have no result, one seed after the other.

    Args:
        towers: the towers.
        setup: what all probes share.
        folder: contains jobs and results.
        storage_options: credentials for remote shards.

    Raises:
        ConfigError: Transformers is not installed, a tower is damaged, or lacks the layer.
        StudyError: some probes failed, raised after all others were tried; or `hours` was too short for any.
        TrainingInterruptedError: this process received SIGTERM or Ctrl-C.
    """
    require_transformers()
    jobs = plan_probes(towers, setup, folder)
    cores = cpu_count()
    parallel = min(setup.config.parallel_runs or cores, len(jobs))
    waiting = []
    for job in jobs:
        if not Path(job.result).is_file():
            file = folder / "jobs" / f"{job.row}-{job.seed}-{job.fingerprint}.json"
            replace(job, threads=max(1, cores // parallel)).save(file)
            waiting.append(file)
    (folder / "results").mkdir(parents=True, exist_ok=True)
    log.info("%d probes, %d of them done; running up to %d in parallel", len(jobs), len(jobs) - len(waiting), parallel)
    module = "clips_pipeline.llava.job"
    stage = Stage("llava_probe", len(jobs), "probes", done=len(jobs) - len(waiting))
    if failed := run_jobs(waiting, parallel, setup.config.hours, storage_options, module, stage):
        raise StudyError(
            f"{len(failed)} of {len(jobs)} probes failed; the results of the others are kept. Run the same command to retry:\n"
            + "\n".join(failed)
        )
    finished = [_read(Path(job.result)) for job in jobs if Path(job.result).is_file()]
    if not methods_of([one.row for one in finished]):
        raise StudyError(
            f"llava_probe.hours: {setup.config.hours:g} was too short for a probe of a trained tower; raise it"
        )
    if len(finished) < len(jobs):
        log.warning("%d of %d probes done; run the same command to continue", len(finished), len(jobs))
    return finished


def _dimensions(tower: Tower, layer: int) -> str:
    """Return a digest of the dimensions of a tower, after a check of its folder and of the layer."""
    try:
        model, config = load_weights_folder(tower.folder)
    except ConfigError as error:
        result = tower.folder.parents[1] / "results" / f"{tower.folder.name}-*.json"
        raise ConfigError(
            f"llava_probe: the tower of {tower.method}, seed {tower.seed}: {error}. To train it again, delete {tower.folder} and "
            f"its result, {result}"
        ) from None
    check_layer(layer, model.config.vision.depth)
    return digest([digest_mapping(model.config.vision), config["images"]])


def _read(path: Path) -> Probe:
    found: Mapping[str, Any] = json.loads(path.read_text())
    return Probe(
        found["row"], found["seed"], tuple(found["answers"]), tuple(found["validation"]), float(found["seconds"])
    )
