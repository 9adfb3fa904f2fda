"""The data of a run as MLflow's dataset inputs: name, digest and place, none of the samples."""

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

# What MLflow's store keeps of a digest.
_MAX_DIGEST_LENGTH = 36
# No name of an evaluation set can have a space.
TRAINING_DATA = "training data"


def log_data(run_id: str | None, shards: Path, splits: Sequence[str], name: str = TRAINING_DATA) -> None:
    """Say on a run which splits it reads; what it holds already is not logged twice.

    Args:
        run_id: None where nothing is tracked.
        shards: the prepared folder.
        splits: each becomes an input of its name as context; one that is not in the index is left out.
        name: of the data set.
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
    """Refuse to put the results on one set among those of another of the same name.

    Raises:
        ConfigError: the run was evaluated under this name on other samples.
    """
    if run_id is None:
        return
    digest, run = _digest(load_index(shards), split), MlflowClient().get_run(run_id)
    for one in run.inputs.dataset_inputs:
        if one.dataset.name == set_name and one.dataset.digest != digest:
            raise ConfigError(
                f"evaluate.set_name: {set_name!r} names the set with digest {one.dataset.digest} in MLflow run {run_id}, "
                f"and {split!r} of {shards} has {digest}; its metrics would be overwritten. Give this set a name of its own"
            )


def _digest(index: Index, split: str) -> str:
    return index.split_version(split)[:_MAX_DIGEST_LENGTH]
