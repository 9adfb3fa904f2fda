"""What happens around a `kedro run`: parameters checked first, one MLflow run per model, its lineage, a summary.

Every `kedro` command imports this file, also `kedro --help`; so what only a run needs is imported by its hooks.
"""

import logging
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline

if TYPE_CHECKING:
    from clips_pipeline.pipelines.lineage import Code

log = logging.getLogger(__name__)


class ProjectHooks:
    """Registered in `settings.HOOKS`."""

    def __init__(self) -> None:
        self._context: KedroContext | None = None
        self._code: Code | None = None
        self._run_id: str | None = None
        self._continued: str | None = None
        self._configs: dict[str, Any] = {}

    @hook_impl(wrapper=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, Any, Any]:
        """Keep the context, and let one process at a time make MLflow's database, as kedro-mlflow's hook does within.

        Raises:
            SystemExit: the tracking server does not answer, or cannot be used; the message has been shown.
        """
        # kedro-mlflow sets its own level on import, after logging.yml was read.
        logging.getLogger("kedro_mlflow").setLevel(logging.WARNING)
        self._context = context
        from mlflow.exceptions import MlflowException

        from clips_pipeline.registry.server import away_ends, made_by_one

        uri, experiment = _tracking(context)
        try:
            with away_ends(), made_by_one(uri, experiment):
                return (yield)
        except MlflowException as error:
            log.error("MLflow's store %s: %s", uri, error.message.splitlines()[0])
            raise SystemExit(2) from None

    @hook_impl
    def after_catalog_created(
        self,
        catalog: CatalogProtocol[Any, Any],
        conf_catalog: dict[str, Any],
        conf_creds: dict[str, Any],
        parameters: dict[str, Any],
    ) -> None:
        """Add what is no parameter: where nodes write, and credentials."""
        from clips_pipeline.datasets.folder import Paths
        from clips_pipeline.datasets.remote import RemoteDataset
        from clips_pipeline.pipelines.environments import local_credentials
        from clips_pipeline.pipelines.finetune.pipeline import OWN, OWN_PATHS

        self._configs = conf_catalog
        paths = Paths(catalog)
        paths.makes_parents = False
        catalog["paths"] = MemoryDataset(paths, copy_mode="assign")
        catalog[OWN_PATHS] = MemoryDataset(Paths(catalog, OWN), copy_mode="assign")
        local = local_credentials(self._context.config_loader) if self._context is not None else {}
        credentials = [local.get("storage"), conf_creds.get("storage")]
        catalog["remote_shards"] = RemoteDataset(
            parameters.get("storage", {}), credentials, lambda: paths["shard_cache"]
        )
        search = conf_creds.get("search") or local.get("search") or {}
        catalog["search_credentials"] = MemoryDataset(search, copy_mode="assign")

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> Generator[None, Any, Any]:
        """Refuse bad parameters before any work; let kedro-mlflow, whose hook runs within, continue the right run.

        Raises:
            SystemExit: a parameter is wrong; the message has been shown, a traceback would only hide it.
        """
        from clips_pipeline.config import ConfigError

        try:
            self._prepare(run_params, pipeline, catalog)
        except ConfigError as error:
            log.error("%s", error)
            raise SystemExit(2) from None
        result = yield
        self._own_run()
        return result

    def _prepare(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
        from clips_pipeline.pipelines import dry_run, environments, lineage, other_model, run_identity
        from clips_pipeline.pipelines.check import check, claim_data
        from clips_pipeline.registry.runs import configure_system_metrics
        from kedro_dvc_sync.commit import within_dvc

        if self._context is not None and "searched_environment" in pipeline.inputs():
            # Here and not for every catalog: it reads `conf/base` once more, a tenth of a second.
            own = environments.differences(self._context.config_loader, catalog.load("parameters"))
            catalog["searched_environment"] = MemoryDataset(own)
        check(pipeline, catalog)
        if not within_dvc():
            # A stage that DVC runs has to write what `dvc.yaml` names.
            other_model.keep_apart(pipeline, catalog, self._configs)
        if dry_run.wanted(catalog):
            dry_run.show(pipeline, catalog)
            # Before MLflow, DVC or any node has done anything.
            raise SystemExit(0)
        catalog.load("paths").makes_parents = True
        self._run_id = self._continued = None
        if self._context is None:
            return
        claim_data(pipeline, catalog, self._context.env or "local")
        self._code = lineage.code_of(self._context.project_path)
        tracking = getattr(self._context, "mlflow", None)
        if tracking is None:
            return
        configure_system_metrics(catalog.load("parameters").get("tracking", {}))
        run = tracking.tracking.run
        found = run_identity.run_to_continue(pipeline, catalog)
        if found is not None:
            # With the name it has: kedro-mlflow would give it that of the pipeline that goes on.
            run.id, run.name = found
            self._continued = run.id
        elif run.name is None:
            run.name = run_identity.run_name(run_params.get("pipeline_names"), self._context.env, pipeline, catalog)

    def _own_run(self) -> None:
        """The run is open now: say which code and which process it belongs to; close what killed processes left open."""
        import mlflow

        active = mlflow.active_run()
        if active is None or self._code is None:
            return
        from clips_pipeline.registry import runs
        from clips_pipeline.registry.lineage_store import tag_run

        self._run_id = active.info.run_id
        tag_run(self._run_id, self._code.git)
        client = mlflow.MlflowClient()
        client.set_tag(self._run_id, runs.OWNER, runs.owner())
        for closed in runs.close_abandoned(client, active.info.experiment_id):
            log.info("the MLflow run %s of a process that was killed is closed", closed)

    @hook_impl(wrapper=True)
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> Generator[None, Any, Any]:
        """Record what was made, then say what came out; within, kedro-mlflow ends the run and DVC commits."""
        from clips_pipeline.pipelines import summary
        from clips_pipeline.registry.server import away_ends

        with away_ends():
            result = yield
            if self._context is not None:
                environment = self._context.env or "local"
                self._record(pipeline, catalog, None if environment == "local" else environment)
                summary.show(pipeline, catalog, environment)
        return result

    def _record(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any], environment: str | None) -> None:
        """The lineage, on the run and on the version that was registered."""
        if self._context is None or self._code is None or self._run_id is None:
            return
        from clips_pipeline.pipelines import lineage
        from clips_pipeline.registry import lineage_store
        from kedro_dvc_sync.commit import nodes_in_place
        from kedro_dvc_sync.project import Project

        project = Project(self._context.project_path, environment)
        names = nodes_in_place(project, pipeline, catalog)
        found, ran = lineage.gather(project, names, catalog.load("parameters"), self._code)
        lineage_store.record_run(self._run_id, found.only(ran), self._code.patch)
        for entry in {"registered_model", "finetuned_registered_model"} & pipeline.all_outputs():
            registered = catalog.load(entry)
            lineage_store.attach(registered["name"], registered["version"], found, self._code.patch)

    @hook_impl(wrapper=True, tryfirst=True)
    def on_pipeline_error(self, error: Exception) -> Generator[None, Any, Any]:
        """Bad input gets its one message; other errors keep Kedro's traceback.

        Raises:
            SystemExit: the error is one of ours, with a message made for people, or the tracking server is away.
        """
        from clips_pipeline.config import ConfigError
        from clips_pipeline.datasets.folder import MissingPathError
        from clips_pipeline.registry.server import away_ends, is_away
        from clips_pipeline.training.disk import CannotWriteError
        from clips_pipeline.training.outcome import TrainingFailedError, TrainingInterruptedError

        with away_ends():
            if is_away(error):
                raise error
            # kedro-mlflow ends the run.
            result = yield
            if isinstance(error, ConfigError):
                self._drop_refused_run()
        if isinstance(error, TrainingInterruptedError):
            log.warning("%s", error)
            raise SystemExit(error.exit_code) from None
        missing = isinstance(error, DatasetError) and isinstance(error.__cause__, MissingPathError | FileNotFoundError)
        if missing or isinstance(error, ConfigError | TrainingFailedError | CannotWriteError):
            log.error("%s", error)
            raise SystemExit(1 if isinstance(error, TrainingFailedError | CannotWriteError) else 2) from None
        return result

    def _drop_refused_run(self) -> None:
        if self._run_id is None or self._run_id == self._continued:
            return
        import mlflow

        from clips_pipeline.registry.runs import drop_if_empty

        drop_if_empty(mlflow.MlflowClient(), self._run_id)


def _tracking(context: KedroContext) -> tuple[str, str]:
    """Tracking URI and experiment of `mlflow.yml`, as kedro-mlflow is about to read them."""
    patterns = context.config_loader.config_patterns  # type: ignore[attr-defined]  # of every loader that kedro-mlflow knows
    patterns.setdefault("mlflow", ["mlflow*", "mlflow*/**", "**/mlflow*"])
    try:
        found = context.config_loader["mlflow"]
    except MissingConfigException:
        found = {}
    uri = found.get("server", {}).get("mlflow_tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI", "")
    name = found.get("tracking", {}).get("experiment", {}).get("name") or str(context._package_name)
    return uri, name
