"""Registration of imported weights: a version without metrics and without an alias, whose lineage is where they came from."""

from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient

from clips_pipeline.config import to_mapping
from clips_pipeline.interop.digest import model_digest
from clips_pipeline.interop.open_clip_folder import Origin
from clips_pipeline.io.redact import redact
from clips_pipeline.registry.config import RegistryConfig
from clips_pipeline.registry.lineage.record import Lineage
from clips_pipeline.registry.lineage.tags import tag_run, tag_version
from clips_pipeline.registry.tracking.logged_models import MODEL_DIGEST, get_or_create_logged_model
from clips_pipeline.registry.tracking.runs import mlflow_key
from clips_pipeline.registry.versions.packaging import log_package
from clips_pipeline.registry.versions.register import log_parameters

PARAMETERS = "import"
"""Group of the lineage's parameters, and prefix of tags, that say where the weights came from."""


def register_imported(folder: Path, name: str, origin: Origin, lineage: Lineage, patch: bytes | None) -> int:
    """Register an imported model folder as a new version. The same weights under the same name are the same version.

    Args:
        folder: the model folder that `import_model` wrote.
        name: registered model.
        origin: where the weights came from.
        lineage: code and environment of the import.
        patch: uncommitted changes of the code, as in `tags.tag_version`.

    Returns:
        number of the version.

    Raises:
        ConfigError: MLflow does not accept the name.
    """
    replace(RegistryConfig(), name=name)  # checks the name
    client = MlflowClient()
    digest = model_digest(folder)
    for version in client.search_model_versions(f"name='{name}'"):
        if version.tags.get(MODEL_DIGEST) == digest:
            return int(version.version)
    facts = {key: value for key, value in to_mapping(origin).items() if value is not None}
    with mlflow.start_run(run_name=f"import {name}") as run:
        active = str(run.info.run_id)
        tag_run(active, lineage.git)
        log_parameters(client, active, {PARAMETERS: facts})
        model_id = get_or_create_logged_model(client, active, folder, digest)
        log_package(folder, model_id, active)
        tags = {mlflow_key(f"{PARAMETERS}.{key}"): redact(str(value)) for key, value in facts.items()}
        found = mlflow.register_model(f"models:/{model_id}", name, tags=tags | {MODEL_DIGEST: digest})
        tag_version(name, int(found.version), replace(lineage, parameters={PARAMETERS: facts}), patch)
        client.update_model_version(name, str(found.version), imported_card(name, origin))
    return int(found.version)


def imported_card(name: str, origin: Origin) -> str:
    """Return the model card of imported weights."""
    lines = [
        f"# {name}",
        "",
        "Vision and text tower of a CLIPS model (arXiv 2411.16828) that this project did not train. They have no captioner, and",
        "they were not evaluated when they were imported: `kedro run --pipelines evaluate --params evaluate.model=models:/…`.",
        "",
        "| | |",
        "| --- | --- |",
        f"| source | `{origin.source}` |",
        *([f"| revision | `{origin.revision}` |"] if origin.revision else []),
        f"| weights | `{origin.weights}`, SHA-256 `{origin.weights_sha256}` |",
        f"| license, as the source states it | {origin.license or 'not stated'} |",
        "",
    ]
    return redact("\n".join(lines))
