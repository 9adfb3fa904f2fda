"""One training of a study and its evaluation, in its own process: `python -m clips_pipeline.study.job JOB.json`.

A second start resumes from the last checkpoint.
"""

import json
import os
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.data.shards.shard_cache import ShardCache
from clips_pipeline.data.storage.files import Storage
from clips_pipeline.evaluation.config import EvaluationConfig
from clips_pipeline.io.atomic import write_text
from clips_pipeline.io.terminal import protect_output
from clips_pipeline.training.events.event_log import read_all
from clips_pipeline.training.launch.interrupt import INTERRUPTED, PARENT, watch_parent
from clips_pipeline.training.launch.launcher import launch
from clips_pipeline.training.launch.result import TrainingFailedError, TrainingInterruptedError
from clips_pipeline.training.run_spec import STORAGE_OPTIONS, RunSpec


def write_job(path: Path, spec: RunSpec, evaluation: EvaluationConfig, result: Path, shards: str) -> None:
    """Write the job file that `main` reads. `shards` are those of the evaluation."""
    job = {
        "spec": to_mapping(spec),
        "evaluation": to_mapping(evaluation),
        "result": str(result),
        "shards": shards,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(job, indent=1))


def run(job: dict[str, Any]) -> None:
    """Train, evaluate, and write the result atomically."""
    # Imported here: the study's own process, which imports this module too, needs no torch.
    import torch

    from clips_pipeline.evaluation.evaluate import evaluate_model

    spec = from_mapping(RunSpec, job["spec"], where="spec")
    evaluation = from_mapping(EvaluationConfig, job["evaluation"], where="evaluate")
    options = json.loads(os.environ.get(STORAGE_OPTIONS, "{}"))
    launch(spec, lambda _event: None, storage_options=options)
    if spec.train.launch.threads is not None:
        # Evaluate on the training's part of the cores too: two evaluations on all cores would slow each other down.
        torch.set_num_threads(spec.train.launch.threads)
    remote = ShardCache(Path(spec.shard_cache), Storage(spec.storage, options))
    metrics = evaluate_model(Path(spec.model_folder), Path(str(job["shards"])), evaluation, remote).metrics
    rates = [event["samples_per_s"] for event in read_all(spec.events) if event["kind"] == "step"]
    result = {"metrics": metrics, "samples_per_s": statistics.median(rates) if rates else None}
    write_text(Path(str(job["result"])), json.dumps(result, indent=1))


def main(arguments: list[str]) -> int:
    """Run the job.

    Returns:
        exit code 75 where SIGTERM, or the end of the study's process, interrupted it after a checkpoint; 1 with a
        message where it failed.
    """
    protect_output()
    if os.environ.pop(PARENT, None) == "1":
        watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        run(json.loads(Path(arguments[0]).read_text()))
    except TrainingInterruptedError as error:
        print(error, file=sys.stderr)
        return INTERRUPTED
    except (ConfigError, TrainingFailedError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
