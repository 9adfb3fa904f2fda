"""The search node: an Optuna study whose trials are child runs of this MLflow run."""

from pathlib import Path
from typing import Any

import pandas as pd


def search(
    parameters: dict[str, Any],
    train_parameters: dict[str, Any],
    shards: Path,
    tokenizer: Path,
    remote: Any,
    folder: Path,
) -> tuple[dict[str, Any], dict[str, str], pd.DataFrame]:
    """Search, then hand the best parameters on as the environment `best`.

    Returns:
        `conf/best/parameters_train.yml`, `conf/best/globals.yml` (results of their own folder), and the table of trials.
    """
    from clips_pipeline.pipelines.parameters import typed
    from clips_pipeline.pipelines.train.nodes import build_spec
    from clips_pipeline.registry.tracking import child_run, log_search
    from clips_pipeline.tuning import study

    def spec_of(trial_parameters: dict[str, Any], trial_folder: Path) -> Any:
        return build_spec(trial_parameters, shards, tokenizer, remote, trial_folder / "runs", trial_folder / "model")

    config = typed("search", parameters)
    result = study.search(config, train_parameters, spec_of, folder, child_run, remote.storage.options)
    log_search(config.metric, result.best_value, result.best_parameters)
    # Best goes last on the screen and first in the file: the environment keeps its results apart from the default's.
    return result.best_parameters, {"results_root": "data/best"}, result.trials
