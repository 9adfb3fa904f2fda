"""After a plain `kedro run`, tell DVC what it made, so that both entrances leave `dvc status` clean."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

log = logging.getLogger(__name__)


def finished_stages(project: Path, pipeline: Pipeline) -> list[str]:
    """The stages of `dvc.yaml` whose Kedro pipeline was run whole."""
    from clips_pipeline.pipeline_registry import register_pipelines

    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    pipelines = register_pipelines()
    ran = {node.name for node in pipeline.nodes}
    return [stage for stage in stages if {node.name for node in pipelines[stage].nodes} <= ran]


def commit(project: Path, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
    """`dvc commit` the stages that ran. Inside `dvc repro` DVC does that itself. A failure is a warning, never an error."""
    # DVC sets DVC_ROOT for the commands of its stages.
    if "DVC_ROOT" in os.environ or not (project / ".dvc").is_dir() or not (project / "dvc.yaml").is_file():
        return
    stages = finished_stages(project, pipeline)
    if not stages:
        return
    command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", *stages]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        log.warning("`dvc commit` failed, so `dvc status` will show changes: %s", done.stderr.strip()[-500:])
        return
    if "register" in stages:
        _tag_version(project, catalog)


def _tag_version(project: Path, catalog: CatalogProtocol[Any, Any]) -> None:
    """The version was registered before its data was committed: give it the hashes that stand in dvc.lock now."""
    from clips_pipeline.registry.lineage import read_lineage
    from clips_pipeline.registry.register import tag_data

    registered = catalog.load("registered_model")
    tag_data(registered["name"], registered["version"], read_lineage(project).data)
