"""Another model than the trained one: `evaluate.model` has a folder of its own, `embed` and `recaption` need no trained one."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """Redirect the outputs of the evaluation node to `evaluations/<model>/` beside their usual paths.

    Metrics, report and per-item results of the trained model, which DVC versions, stay unchanged. The trained model and
    its run are not needed, so a project without a trained model can evaluate too.

    Args:
        pipeline: the pipeline that is about to run.
        catalog: the run's catalog.
        configs: configuration of the catalog's entries.

    Raises:
        ConfigError: the same pipeline registers a model; the registration would refuse these results at the end.
    """
    nodes = [node for node in pipeline.nodes if node.name.endswith("evaluate_node")]
    model = catalog.load("params:evaluate").get("model") if nodes else None
    if model is None:
        return
    if any(node.name.endswith("register_node") for node in pipeline.nodes):
        raise ConfigError(
            f"evaluate.model: {model!r}, but this pipeline registers the model that it trains; set it to null, and evaluate the "
            "other one with `kedro run --pipelines evaluate --params evaluate.model=…`"
        )
    folder = folder_name(str(model))
    with _replacements_intended():
        for node in nodes:
            for name in node.outputs:
                path = Path(configs[name]["filepath"])
                moved = {
                    "filepath": str(path.parent / FOLDER / folder / path.name),
                    "metadata": {"dvc": {"track": False}},
                }
                catalog[name] = AbstractDataset.from_config(name, {**configs[name], **moved})
            for name in {"clips_model", "mlflow_run"} & set(node.inputs):
                if not catalog.exists(name):
                    catalog[name] = MemoryDataset({})
    log.info("evaluate.model: results are written to %s/%s", FOLDER, folder)


def allow_other_inputs(pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
    """Let `embed` and `recaption` run without the project's model or shards where their parameters name others.

    Args:
        pipeline: the pipeline that is about to run.
        catalog: the run's catalog.
    """
    for node in pipeline.nodes:
        group = node.name.removesuffix("_node")
        if group not in ("embed", "recaption"):
            continue
        parameters = catalog.load(f"params:{group}")
        for name, key in (("clips_model", "model"), ("shards", "data")):
            if parameters.get(key) is not None and not catalog.exists(name):
                with _replacements_intended():
                    catalog[name] = MemoryDataset({})


def folder_name(model: str) -> str:
    """Return a path or URI as a folder name: `models:/clips@champion` becomes `models-clips-champion`."""
    return re.sub(r"[^\w.]+", "-", model).strip("-.")[-100:] or "model"


@contextmanager
def _replacements_intended() -> Iterator[None]:
    """Silence Kedro, which warns about every replaced dataset."""
    kedro_log = logging.getLogger("kedro.io.data_catalog")
    level = kedro_log.level
    kedro_log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        kedro_log.setLevel(level)
