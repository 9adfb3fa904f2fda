"""Node of the `embed` pipeline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clips_pipeline.config import ConfigError
from clips_pipeline.pipelines.parameters import typed


def embed(parameters: dict[str, Any], model_folder: Path, shards: Path, remote: Any, paths: Mapping[str, Path]) -> Path:
    """Write the table of embeddings of all images and texts."""
    # Imported here because they load torch or MLflow.
    from clips_pipeline.batch_inference.embed import embed as write_embeddings

    config = typed("embed", parameters)
    inputs, model = inputs_and_model("embed", config, model_folder, shards, remote)
    return write_embeddings(inputs, model, config, paths["embedding_table"])


def inputs_and_model(name: str, config: Any, model_folder: Path, shards: Path, remote: Any) -> tuple[Any, Path]:
    """Return the samples that the parameter group `name` selects, and the folder of its model.

    `model_folder` and `shards` are those of the project, which may be missing where the parameters name others.

    Raises:
        ConfigError: there are no such samples, or no such model.
    """
    from clips_pipeline.batch_inference.inputs import other_inputs, prepared_inputs
    from clips_pipeline.data.shards.records import SampleFields
    from clips_pipeline.registry.versions.packaging import resolve_model_folder

    model = model_folder if config.model is None else resolve_model_folder(config.model, f"{name}.model")
    if not model.is_dir():
        raise ConfigError(
            f"{name}.model: {model}: no such folder; give the folder of a model, models:/NAME@ALIAS or runs:/ID/PATH"
        )
    if config.data is None:
        return prepared_inputs(shards, config.split, remote), model
    fields = SampleFields(config.web_field, config.synthetic_field, needed=False)
    return other_inputs(config.data, fields, remote.storage, f"{name}.data", config.split, remote), model
