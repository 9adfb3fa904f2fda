"""What happens around a `kedro run`: parameters checked first, one MLflow run per model, its lineage, a summary."""

import logging
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline

from clips_pipeline.config import ConfigError
from clips_pipeline.datasets.folder import MissingPathError, Paths
from clips_pipeline.datasets.remote import RemoteDataset
from clips_pipeline.pipelines import dry_run, environments, lineage, run_identity, summary
from clips_pipeline.pipelines.check import check, claim_data
from clips_pipeline.pipelines.credentials import local_credentials
from clips_pipeline.pipelines.finetune.pipeline import OWN, OWN_PATHS
from kedro_dvc_sync.project import Project

log = logging.getLogger(__name__)


class ProjectHooks:
    """Registered in `settings.HOOKS`."""

    def __init__(self) -> None:
        self._context: KedroContext | None = None
        self._code: lineage.Code | None = None
        self._run_id: str | None = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Keep the context: it knows the environment and kedro-mlflow's configuration."""
        # kedro-mlflow sets its own level on import, after logging.yml was read.
        logging.getLogger("kedro_mlflow").setLevel(logging.WARNING)
        self._context = context

    @hook_impl
    def after_catalog_created(
        self,
        catalog: CatalogProtocol[Any, Any],
        conf_creds: dict[str, Any],
        parameters: dict[str, Any],
    ) -> None:
        """Add what is no parameter: where nodes write, and credentials."""
        paths = Paths(catalog)
        catalog["paths"] = MemoryDataset(paths, copy_mode="assign")
        catalog[OWN_PATHS] = MemoryDataset(Paths(catalog, OWN), copy_mode="assign")
        local = local_credentials(self._context.config_loader) if self._context is not None else {}
        credentials = [local.get("storage"), conf_creds.get("storage")]
        catalog["remote_shards"] = RemoteDataset(
            parameters.get("storage", {}), credentials, lambda: paths["shard_cache"]
        )
        search = conf_creds.get("search") or local.get("search") or {}
        catalog["search_credentials"] = MemoryDataset(search, copy_mode="assign")

    @hook_impl(tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> None:
        """Refuse bad parameters before any work; let kedro-mlflow, which comes next, continue the right run.

        Raises:
            SystemExit: a parameter is wrong; the message has been shown, a traceback would only hide it.
        """
        try:
            self._prepare(pipeline, catalog)
        except ConfigError as error:
            log.error("%s", error)
            raise SystemExit(2) from None

    def _prepare(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
        if self._context is not None and "searched_environment" in pipeline.inputs():
            # Here and not for every catalog: it reads `conf/base` once more, a tenth of a second.
            own = environments.differences(self._context.config_loader, catalog.load("parameters"))
            catalog["searched_environment"] = MemoryDataset(own)
        check(pipeline, catalog)
        if dry_run.wanted(catalog):
            dry_run.show(pipeline, catalog)
            # Before MLflow, DVC or any node has done anything.
            raise SystemExit(0)
        if self._context is not None:
            claim_data(pipeline, catalog, self._context.env or "local")
        self._run_id = None
        if self._context is not None:
            self._code = lineage.code_of(self._context.project_path)
        tracking = getattr(self._context, "mlflow", None)
        if tracking is not None:
            try:
                found = run_identity.run_to_continue(pipeline, catalog)
            except ConfigError as error:
                log.error("%s", error)
                raise SystemExit(2) from None
            if found is not None:
                # With the name it has: kedro-mlflow would give it that of the pipeline that goes on.
                tracking.tracking.run.id, tracking.tracking.run.name = found

    @hook_impl
    def before_node_run(self) -> None:
        """The run is open now: say which code it begins with."""
        import mlflow

        active = mlflow.active_run()
        if self._run_id is None and self._code is not None and active is not None:
            from clips_pipeline.registry.lineage_store import tag_run

            self._run_id = active.info.run_id
            tag_run(self._run_id, self._code.git)

    @hook_impl
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> None:
        """Record what was made, then say what came out."""
        if self._context is None:
            return
        environment = self._context.env or "local"
        self._record(pipeline, catalog, None if environment == "local" else environment)
        summary.show(pipeline, catalog, environment)

    def _record(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], environment: str | None) -> None:
        """The lineage, on the run and on the version that was registered."""
        if self._context is None or self._code is None or self._run_id is None:
            return
        from clips_pipeline.registry import lineage_store

        project = Project(self._context.project_path, environment)
        names = {node.name for node in pipeline.nodes}
        found, ran = lineage.gather(project, names, catalog.load("parameters"), self._code)
        lineage_store.record_run(self._run_id, found.only(ran), self._code.patch)
        for entry in {"registered_model", "finetuned_registered_model"} & pipeline.all_outputs():
            registered = catalog.load(entry)
            lineage_store.attach(registered["name"], registered["version"], found, self._code.patch)

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Bad input gets its one message; other errors keep Kedro's traceback.

        Raises:
            SystemExit: the error is one of ours, with a message made for people.
        """
        from clips_pipeline.training.disk import CannotWriteError
        from clips_pipeline.training.outcome import TrainingFailedError, TrainingInterruptedError

        if isinstance(error, TrainingInterruptedError):
            log.warning("%s", error)
            raise SystemExit(error.exit_code) from None
        missing = isinstance(error, DatasetError) and isinstance(error.__cause__, MissingPathError | FileNotFoundError)
        if missing or isinstance(error, ConfigError | TrainingFailedError | CannotWriteError):
            log.error("%s", error)
            raise SystemExit(1 if isinstance(error, TrainingFailedError | CannotWriteError) else 2) from None
