"""The data of a run as MLflow dataset inputs: name, digest and location, without samples."""

import json
from collections.abc import Sequence
from pathlib import Path

from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from clips_pipeline.config import ConfigError
from clips_pipeline.data.shards.index import Index, load_index

# Limit of MLflow's store.
_MAX_DIGEST_LENGTH = 36
# Names of evaluation sets cannot contain a space.
TRAINING_DATA = "training data"


def log_data(run_id: str | None, shards: Path, splits: Sequence[str], name: str = TRAINING_DATA) -> None:
    """Log the splits that a run reads as its inputs. Inputs that the run already has are not logged again.

    Args:
        run_id: None where nothing is tracked.
        shards: the prepared folder.
        splits: each becomes an input with the split as context; a split that is not in the index is left out.
        name: name of the data set.
    """
    if run_id is None:
        return
    index = load_index(shards)
    inputs = []
    for split in (split for split in splits if split in index.splits):
        dataset = MetaDataset(LocalArtifactDatasetSource(str(shards)), name=name, digest=_digest(index, split))
        profile = json.dumps({"samples": index.split_samples(split), "data_version": index.version})
        entity = Dataset(**dataset.to_dict(), profile=profile)
        inputs.append(DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, split)]))
    if inputs:
        MlflowClient().log_inputs(run_id, datasets=inputs)


def check_same_data(run_id: str | None, shards: Path, split: str, set_name: str) -> None:
    """Check that a run has no results on other data under the same set name.

    Raises:
        ConfigError: the run was evaluated under this name on other samples.
    """
    if run_id is None:
        return
    digest, run = _digest(load_index(shards), split), MlflowClient().get_run(run_id)
    for logged in run.inputs.dataset_inputs:
        if logged.dataset.name == set_name and logged.dataset.digest != digest:
            raise ConfigError(
                f"evaluate.set_name: {set_name!r} has digest {logged.dataset.digest} in MLflow run {run_id}, but "
                f"{split!r} of {shards} has {digest}, and its metrics would be overwritten; choose another set_name"
            )


def _digest(index: Index, split: str) -> str:
    return index.split_version(split)[:_MAX_DIGEST_LENGTH]
