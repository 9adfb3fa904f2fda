"""Node of the `recaption` pipeline."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clips_pipeline.pipelines.embed.nodes import inputs_and_model
from clips_pipeline.pipelines.parameters import typed


def recaption(
    parameters: dict[str, Any], model_folder: Path, shards: Path, remote: Any, paths: Mapping[str, Path]
) -> Path:
    """Write the samples with new synthetic captions, as shards and as a table."""
    # Imported here because it loads torch.
    from clips_pipeline.batch_inference.recaption import recaption as write_recaptioned

    config = typed("recaption", parameters)
    inputs, model = inputs_and_model("recaption", config, model_folder, shards, remote)
    return write_recaptioned(inputs, model, config, paths["recaptioned"])
