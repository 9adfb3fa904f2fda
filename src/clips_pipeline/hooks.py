"""What happens around a `kedro run`: parameters checked first, one MLflow run per model, outputs committed to DVC, a summary."""

import logging
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from clips_pipeline.config import ConfigError
from clips_pipeline.pipelines import run_identity, summary
from clips_pipeline.pipelines.check import check

log = logging.getLogger(__name__)


class ProjectHooks:
    """Registered in `settings.HOOKS`."""

    def __init__(self) -> None:
        self._context: KedroContext | None = None

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
        """Add the entry `remote_shards`: credentials reach the nodes that need them without being a parameter."""
        from clips_pipeline.datasets.remote import RemoteDataset

        catalog["remote_shards"] = RemoteDataset(
            parameters.get("storage", {}), conf_creds.get("storage") or {}, lambda: catalog.load("shard_cache_target")
        )

    @hook_impl(tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> None:
        """Refuse bad parameters before any work; let kedro-mlflow, which comes next, continue the right run.

        Raises:
            SystemExit: a parameter is wrong; the message has been shown, a traceback would only hide it.
        """
        try:
            check(pipeline, catalog)
        except ConfigError as error:
            log.error("%s", error)
            raise SystemExit(2) from None
        tracking = getattr(self._context, "mlflow", None)
        if tracking is not None:
            run_id = run_identity.run_to_continue(pipeline, catalog)
            if run_id is not None:
                tracking.tracking.run.id = run_id

    @hook_impl
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> None:
        """Record what was made, then say what came out."""
        if self._context is None:
            return
        environment = self._context.env or "local"
        summary.show(pipeline, catalog, environment)

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Bad input gets its one message; other errors keep Kedro's traceback.

        Raises:
            SystemExit: the error is one of ours, with a message made for people.
        """
        from clips_pipeline.training.launch import TrainingFailedError

        if isinstance(error, ConfigError | TrainingFailedError):
            log.error("%s", error)
            raise SystemExit(2 if isinstance(error, ConfigError) else 1) from None
