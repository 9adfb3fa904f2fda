"""What surrounds a `kedro run`: parameter checks, one MLflow run per model, its lineage, and the summary."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import mlflow
from kedro.framework.context import KedroContext
from kedro.io import CatalogProtocol, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline
from mlflow.exceptions import MlflowException

from clips_pipeline.config import ConfigError
from clips_pipeline.data.storage.credentials import refuse_secrets
from clips_pipeline.data.storage.files import StorageError
from clips_pipeline.datasets.folder import MissingPathError, Paths
from clips_pipeline.datasets.remote import RemoteDataset
from clips_pipeline.io.disk_errors import find_disk_error
from clips_pipeline.io.redact import remember
from clips_pipeline.pipelines import address_check, dry_run, environments, lineage, other_model, run_identity, summary
from clips_pipeline.pipelines.check import check, check_devices, reserve_shards_folder
from clips_pipeline.pipelines.finetune.pipeline import FINETUNED_NAMES, FINETUNED_PATHS
from clips_pipeline.registry.lineage import tags
from clips_pipeline.registry.tracking import runs
from clips_pipeline.registry.tracking.code_changes import code_changes
from clips_pipeline.registry.tracking.server import database_creation_lock, exit_if_unavailable, is_unavailable
from clips_pipeline.training.events.surroundings import CODE_STATE
from clips_pipeline.training.launch.result import TrainingFailedError, TrainingInterruptedError
from kedro_dvc_sync.commit import nodes_in_place, within_dvc
from kedro_dvc_sync.project import Project

log = logging.getLogger(__name__)


class KedroRun:
    """One `kedro run`, from the creation of its context to its summary."""

    def __init__(self) -> None:
        self._context: KedroContext | None = None
        self._configs: dict[str, Any] = {}
        self._code: lineage.CodeState | None = None
        self._run_id: str | None = None
        self._continued: str | None = None

    @contextmanager
    def open_store(self, context: KedroContext) -> Iterator[None]:
        """Keep the context. In the body kedro-mlflow opens MLflow's store; one process at a time creates the database.

        Raises:
            SystemExit: the tracking server does not answer or cannot be used, its address contains a secret, or its disk
                is full or read-only; the error has been logged.
        """
        # kedro-mlflow sets its own level on import, after logging.yml has been read.
        logging.getLogger("kedro_mlflow").setLevel(logging.WARNING)
        # It says at INFO that it creates its database; a traceback of each error it logs, and raises the error too.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db.utils").addFilter(_has_no_traceback)
        self._context = context
        mlflow_config = address_check.load_mlflow_config(context.config_loader)
        try:
            address_check.check_addresses(context, mlflow_config)
        except ConfigError as error:
            log.error("%s", error)
            raise SystemExit(2) from None
        uri, experiment = _tracking(context, mlflow_config)
        try:
            with _exit_on_disk_error(), exit_if_unavailable(), database_creation_lock(uri, experiment):
                yield
        except MlflowException as error:
            log.error("MLflow's store %s: %s", uri, error.message.splitlines()[0])
            raise SystemExit(2) from None

    def add_entries(
        self,
        catalog: CatalogProtocol[Any, Any],
        configs: dict[str, Any],
        credentials: dict[str, Any],
        parameters: dict[str, Any],
    ) -> None:
        """Add the catalog entries that are not parameters: output paths and credentials.

        Args:
            catalog: the run's catalog.
            configs: content of `catalog.yml`.
            credentials: credentials of the environment.
            parameters: Kedro's entries of the catalog, `parameters` and every `params:…`.
        """
        self._configs = configs
        paths = Paths(catalog)
        paths.makes_parents = False
        catalog["paths"] = MemoryDataset(paths, copy_mode="assign")
        catalog[FINETUNED_PATHS] = MemoryDataset(Paths(catalog, FINETUNED_NAMES), copy_mode="assign")
        local = environments.local_credentials(self._context.config_loader) if self._context is not None else {}
        remember([local, credentials])
        storage = [local.get("storage"), credentials.get("storage")]
        catalog["remote_shards"] = RemoteDataset(
            parameters["parameters"].get("storage", {}), storage, lambda: paths["shard_cache"]
        )
        search = credentials.get("search") or local.get("search") or {}
        catalog["search_credentials"] = MemoryDataset(search, copy_mode="assign")

    def begin(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
        """Check all parameters before any work, and choose the MLflow run that kedro-mlflow will open.

        Raises:
            SystemExit: a parameter is wrong or a disk is full or read-only, and the error has been logged without a
                traceback; or it was a dry run.
        """
        try:
            with _exit_on_disk_error():
                self._check(pipeline, catalog)
                self._choose_mlflow_run(run_params, pipeline, catalog)
        except ConfigError as error:
            log.error("%s", error)
            raise SystemExit(2) from None

    def _check(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
        if self._context is not None and "searched_environment" in pipeline.inputs():
            # Only for pipelines that need it: reading `conf/base` again takes a tenth of a second.
            own = environments.differences(self._context.config_loader, catalog.load("parameters"))
            catalog["searched_environment"] = MemoryDataset(own)
        refuse_secrets(self._configs, "catalog")
        check(pipeline, catalog)
        other_model.allow_other_inputs(pipeline, catalog)
        if not within_dvc():
            # A stage that DVC runs must write the paths in `dvc.yaml`.
            other_model.redirect_outputs(pipeline, catalog, self._configs)
        if dry_run.is_requested(catalog):
            dry_run.show(pipeline, catalog)
            # Exit before MLflow, DVC or any node writes anything.
            raise SystemExit(0)
        check_devices(pipeline, catalog)
        catalog.load("paths").makes_parents = True

    def _choose_mlflow_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> None:
        self._run_id = self._continued = None
        if self._context is None:
            return
        reserve_shards_folder(pipeline, catalog, self._context.env or "local")
        self._code = lineage.code_state(self._context.project_path)
        # For the event log of a training: its processes inherit it.
        os.environ[CODE_STATE] = json.dumps(self._code.summary)
        tracking = getattr(self._context, "mlflow", None)
        if tracking is None:
            return
        runs.configure_system_metrics(catalog.load("parameters").get("tracking", {}))
        run = tracking.tracking.run
        found = run_identity.run_to_continue(pipeline, catalog)
        if found is not None:
            # Keep the run's name: kedro-mlflow would rename it after the pipeline that continues it.
            run.id, run.name = found
            self._continued = run.id
        elif run.name is None:
            run.name = run_identity.run_name(run_params.get("pipeline_names"), self._context.env, pipeline, catalog)

    @contextmanager
    def open_mlflow_run(self) -> Iterator[None]:
        """In the body kedro-mlflow opens the run; then tag it with its code and process, and close runs of killed processes.

        Raises:
            SystemExit: the disk is full or read-only.
        """
        with _exit_on_disk_error():
            yield
            self._tag_mlflow_run()

    def _tag_mlflow_run(self) -> None:
        active = mlflow.active_run()
        if active is None or self._code is None:
            return
        self._run_id = active.info.run_id
        tags.tag_run(self._run_id, self._code.git)
        client = mlflow.MlflowClient()
        client.set_tag(self._run_id, runs.OWNER, runs.process_tag())
        for closed in runs.close_abandoned(client, active.info.experiment_id):
            log.info("closed MLflow run %s, whose process was killed", closed)

    @contextmanager
    def finish(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> Iterator[None]:
        """After the body, record the lineage and print the summary.

        Raises:
            SystemExit: the tracking server does not answer, or a disk is full or read-only.
        """
        with _exit_on_disk_error(), exit_if_unavailable():
            yield
            if self._context is not None:
                environment = self._context.env or "local"
                self._record(pipeline, catalog, None if environment == "local" else environment)
                summary.show(pipeline, catalog, environment)

    def _record(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], environment: str | None) -> None:
        """Record the lineage on the run and on the version that was registered."""
        if self._context is None or self._code is None or self._run_id is None:
            return
        project = Project(self._context.project_path, environment)
        names = nodes_in_place(project, pipeline, catalog)
        found, ran = lineage.gather_lineage(project, names, catalog.load("parameters"), self._code)
        found = replace(found, code_changes=code_changes(mlflow.MlflowClient(), self._run_id))
        tags.record_run(self._run_id, found.select_stages(ran), self._code.patch)
        for entry in {"registered_model", "finetuned_registered_model"} & pipeline.all_outputs():
            registered = catalog.load(entry)
            tags.tag_version(registered["name"], registered["version"], found, self._code.patch)

    @contextmanager
    def handle_error(self, error: Exception) -> Iterator[None]:
        """After the body, log one message for an error of ours; other errors keep Kedro's traceback.

        Raises:
            SystemExit: the error is one of ours, or the tracking server does not answer.
        """
        with _exit_on_disk_error(), exit_if_unavailable():
            if is_unavailable(error):
                raise error
            yield
            refused = isinstance(error, ConfigError) and self._run_id is not None
            if refused and self._run_id != self._continued:
                runs.delete_if_empty(mlflow.MlflowClient(), str(self._run_id))
        if isinstance(error, TrainingInterruptedError):
            log.warning("%s", error)
            raise SystemExit(error.exit_code) from None
        missing = isinstance(error, DatasetError) and isinstance(error.__cause__, MissingPathError | FileNotFoundError)
        if missing or isinstance(error, ConfigError | TrainingFailedError | StorageError):
            log.error("%s", error)
            raise SystemExit(1 if isinstance(error, TrainingFailedError | StorageError) else 2) from None
        if (found := find_disk_error(error)) is not None:
            log.error("%s", found)
            raise SystemExit(1) from None


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info


@contextmanager
def _exit_on_disk_error() -> Iterator[None]:
    """Exit with one message where a disk is full, read-only or forbidden.

    Raises:
        SystemExit: with exit code 1; the message has been logged.
    """
    try:
        yield
    except Exception as error:
        found = None if isinstance(error, ConfigError | StorageError) else find_disk_error(error)
        if found is None:
            raise
        log.error("%s", found)
        raise SystemExit(1) from None


def _tracking(context: KedroContext, config: dict[str, Any]) -> tuple[str, str]:
    """Return tracking URI and experiment name of `mlflow.yml`, as kedro-mlflow will read them."""
    uri = config.get("server", {}).get("mlflow_tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI", "")
    name = config.get("tracking", {}).get("experiment", {}).get("name") or str(context._package_name)
    return uri, name
