"""`evaluate.model`: an evaluation of another model than the trained one writes into a folder of its own."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline

from clips_pipeline.config import ConfigError

log = logging.getLogger(__name__)

FOLDER = "evaluations"


def redirect_outputs(
    pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], configs: Mapping[str, Mapping[str, Any]]
) -> None:
    """Move the outputs of the evaluation node to `evaluations/<model>/` beside their usual places.

    Metrics, report and items of the trained model, which DVC versions, stay as they are. The trained model and its run are not
    needed, so a project that has trained nothing can evaluate too.

    Args:
        pipeline: that is about to run.
        catalog: of the run.
        configs: of the catalog's entries.

    Raises:
        ConfigError: the same pipeline registers a model; it could only refuse these results, after all the work.
    """
    nodes = [node for node in pipeline.nodes if node.name.endswith("evaluate_node")]
    model = catalog.load("params:evaluate").get("model") if nodes else None
    if model is None:
        return
    if any(node.name.endswith("register_node") for node in pipeline.nodes):
        raise ConfigError(
            f"evaluate.model: {model!r}, but this pipeline registers the model that it trains; set null here, and evaluate the "
            "other one by `kedro run --pipelines evaluate --params evaluate.model=…`"
        )
    folder = folder_name(str(model))
    # Kedro warns of every dataset that is replaced; here it is meant.
    kedro_log = logging.getLogger("kedro.io.data_catalog")
    level = kedro_log.level
    kedro_log.setLevel(logging.ERROR)
    for node in nodes:
        for name in node.outputs:
            path = Path(configs[name]["filepath"])
            moved = {"filepath": str(path.parent / FOLDER / folder / path.name), "metadata": {"dvc": {"track": False}}}
            catalog[name] = AbstractDataset.from_config(name, {**configs[name], **moved})
        for name in {"clips_model", "mlflow_run"} & set(node.inputs):
            if not catalog.exists(name):
                catalog[name] = MemoryDataset({})
    kedro_log.setLevel(level)
    log.info("evaluate.model: results go to folders %s/%s", FOLDER, folder)


def folder_name(model: str) -> str:
    """A path or an address as the name of a folder: `models:/clips@champion` becomes `models-clips-champion`."""
    return re.sub(r"[^\w.]+", "-", model).strip("-.")[-100:] or "model"
