"""Kedro hooks that commit finished stages to DVC. A project adds them in its settings: `HOOKS = (DvcHooks(),)`.

Every `kedro` command imports this module, even `kedro --help`, so the hooks import what only a run needs.
"""

import logging
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.framework.project import settings
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from kedro_dvc_sync.errors import StageError

if TYPE_CHECKING:
    from kedro_dvc_sync.project import Project

log = logging.getLogger(__name__)


class DvcHooks:
    """Run `dvc commit` at the end of a plain `kedro run`; within `dvc repro` do nothing, because DVC commits."""

    def __init__(self) -> None:
        self._context: KedroContext | None = None
        self._finished: set[str] = set()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Keep the context, which has the project path and the environment."""
        self._context = context

    @hook_impl(tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> None:
        """Within `dvc repro`, refuse parameters that DVC does not track, because DVC would record other values than were used.

        Raises:
            SystemExit: there are such parameters; the error has been logged.
        """
        from kedro_dvc_sync import commit

        self._finished = set()
        project = self._project()
        if project is None or not commit.within_dvc():
            return
        for stage in commit.finished_stages(project, {node.name for node in pipeline.nodes}):
            other = commit.other_parameters(project, stage, catalog.load("parameters"))
            if other:
                log.error(
                    "stage %s: conf/local sets %s, and DVC does not track conf/local; move the values to a committed environment, "
                    "or use `kedro run` instead of `dvc repro`",
                    stage,
                    ", ".join(sorted(other)),
                )
                raise SystemExit(2)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Remember the finished node, for a run that fails later."""
        self._finished.add(node.name)

    @hook_impl
    def after_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]
    ) -> None:
        """Commit the outputs."""
        self._commit(pipeline, catalog)

    @hook_impl
    def on_pipeline_error(self, error: Exception, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
        """Commit the stages that finished before the error."""
        self._commit(pipeline.only_nodes(*self._finished), catalog)

    def _commit(self, pipeline: Pipeline, catalog: CatalogProtocol[Any, Any]) -> None:
        """Commit. A failure is a warning, because the run's outputs are valid."""
        from kedro_dvc_sync import commit

        try:
            project = self._project()
            if project is not None and not commit.within_dvc():
                nodes = commit.nodes_in_place(project, pipeline, catalog)
                commit.commit(project, nodes, catalog.load("parameters"))
        except StageError as error:
            log.warning("%s", error)

    def _project(self) -> "Project | None":
        from kedro_dvc_sync import commit
        from kedro_dvc_sync.project import Project

        if self._context is None or not commit.uses_dvc(self._context.project_path):
            return None
        name = self._context.env
        default = settings.CONFIG_LOADER_ARGS.get("default_run_env") or "local"
        return Project(self._context.project_path, None if name == default else name)
