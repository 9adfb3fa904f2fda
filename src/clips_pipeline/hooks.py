"""Kedro hooks of this project; `pipelines.kedro_run` implements them.

Every `kedro` command imports this module, even `kedro --help`, so it imports the implementation only when a run needs
it.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

if TYPE_CHECKING:
    from clips_pipeline.pipelines.kedro_run import KedroRun


class ProjectHooks:
    """Hooks registered in `settings.HOOKS`."""

    def __init__(self) -> None:
        self._run: KedroRun | None = None

    @property
    def run(self) -> "KedroRun":
        """The current run, or the one about to start."""
        if self._run is None:
            from clips_pipeline.pipelines.kedro_run import KedroRun

            self._run = KedroRun()
        return self._run

    @hook_impl(wrapper=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, Any, Any]:
        """Keep the context; in the body kedro-mlflow opens MLflow's store."""
        with self.run.open_store(context):
            return (yield)

    @hook_impl
    def after_catalog_created(
        self,
        catalog: CatalogProtocol[Any, Any],
        conf_catalog: dict[str, Any],
        conf_creds: dict[str, Any],
        parameters: dict[str, Any],
    ) -> None:
        """Add the catalog entries that are not parameters."""
        self.run.add_entries(catalog, conf_catalog, conf_creds, parameters)

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> Generator[None, Any, Any]:
        """Check all parameters; in the body kedro-mlflow opens the run."""
        self.run.begin(run_params, pipeline, catalog)
        with self.run.open_mlflow_run():
            return (yield)

    @hook_impl(wrapper=True)
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> Generator[None, Any, Any]:
        """Record the lineage and print the summary; in the body kedro-mlflow ends the run and DVC commits."""
        with self.run.finish(pipeline, catalog):
            return (yield)

    @hook_impl(wrapper=True, tryfirst=True)
    def on_pipeline_error(self, error: Exception) -> Generator[None, Any, Any]:
        """Log one message for bad input; in the body kedro-mlflow ends the run."""
        with self.run.handle_error(error):
            return (yield)
