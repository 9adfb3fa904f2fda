"""Worker process of `test_storages.py`: runs trials of a study until none is left, and scores each by its values.

    python trial_worker.py FOLDER KIND URL TRIALS HANG

With HANG 1 it hangs in its second trial until it is killed. The others wait in their second trial until it hangs;
otherwise, on a busy machine, they could run all trials before it has started its second one.
"""

import sys
import time
from pathlib import Path

import optuna
from tests.servers import wait_for

from clips_pipeline.config import from_mapping
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.tuning import trial_queue
from clips_pipeline.tuning.config import Dimension, SearchConfig, StudyStorageConfig
from clips_pipeline.tuning.open_study import open_study
from clips_pipeline.tuning.storage import StudyStorage, open_storage, silence_optuna


def config_of(kind: str, trials: int) -> SearchConfig:
    return SearchConfig(
        trials=trials,
        storage=StudyStorageConfig(kind=kind, timeout_s=60.0, heartbeat_s=1, grace_s=15),  # type: ignore[arg-type]
        space={"loss.caption_weight": Dimension("float", low=0.5, high=4.0)},
    )


def opened(folder: Path, config: SearchConfig, url: str) -> tuple[optuna.Study, StudyStorage]:
    silence_optuna()
    storage = open_storage(config, folder, {"url": url})
    spec = RunSpec(from_mapping(TrainConfig, {}, "train"), "s", "t", "r", "m", "version")
    return open_study(config, storage, spec, {}, None), storage


def main() -> None:
    folder, kind, url, trials, hang = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
    config = config_of(kind, trials)
    study, storage = opened(folder, config, url)
    done = 0

    def score(attempt: trial_queue.TrialAttempt) -> float:
        nonlocal done
        done += 1
        if hang == "1" and done == 2:
            (folder / "hangs").touch()
            time.sleep(600)
        if done == 2:
            wait_for((folder / "hangs").exists, 300.0)
        time.sleep(0.05)
        return float(attempt.values["loss.caption_weight"] or 0.0)

    while trial_queue.run_next_trial(study, storage, config, score):
        pass


if __name__ == "__main__":
    main()
