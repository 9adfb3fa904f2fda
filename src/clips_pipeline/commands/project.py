"""The options and contexts of commands that work in a project: its environment, tracking server and registered model."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from clips_pipeline.commands.refusals import refusals

_name = click.option("--name", help="Registered model. Default: register.name of the environment.")
environment = click.option("--env", "-e", help="Environment whose mlflow.yml and register.name are used.")


def of_model(command: Any) -> Any:
    """Add the options that name a registered model; the command's first argument is the project's metadata."""
    return _name(environment(click.pass_obj(command)))


@contextmanager
def context(metadata: Any, env: str | None) -> Iterator[Any]:
    """Yield Kedro's context of an environment, with its tracking server set; our errors become one-line messages."""
    from kedro.framework.session import KedroSession

    with refusals(env), KedroSession.create(metadata.project_path, env=env) as session:
        # kedro-mlflow sets the tracking server when the context is loaded.
        yield session.load_context()  # type: ignore[attr-defined]


@contextmanager
def configuration(metadata: Any, env: str | None, parameters: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Yield the loader of an environment's configuration; our errors become one-line messages.

    Without Kedro's context, no tracking server is opened and nothing is written.

    Args:
        metadata: the project's metadata.
        env: environment; None for that of `KEDRO_ENV`, or the default one.
        parameters: nested parameters that replace those of the files.
    """
    from kedro.framework.project import settings

    with refusals(env):
        yield settings.CONFIG_LOADER_CLASS(
            str(metadata.project_path / settings.CONF_SOURCE),
            env=env or os.environ.get("KEDRO_ENV"),
            runtime_params=dict(parameters or {}),
            **settings.CONFIG_LOADER_ARGS,
        )


def catalog_path(metadata: Any, loader: Any, entry: str) -> Path:
    """Return the absolute path of an entry of the catalog."""
    return Path(metadata.project_path, loader["catalog"][entry]["filepath"])


@contextmanager
def model_folder(metadata: Any, model: str, env: str | None) -> Iterator[Callable[[], Path]]:
    """Yield a function that returns the folder of MODEL, fetched if it is a URI; our errors become one-line messages."""
    is_uri = model.startswith(("models:/", "runs:/"))

    def fetch() -> Path:
        if not is_uri:
            return Path(model)
        from clips_pipeline.registry.versions.packaging import fetch_model_folder_for_load

        return fetch_model_folder_for_load(model)

    # Only a URI needs the project's tracking server.
    with context(metadata, env) if is_uri and metadata is not None else refusals(None):
        yield fetch


@contextmanager
def record(metadata: Any, version: str, name: str | None, env: str | None) -> Iterator[Any]:
    """Yield the version's record, from the environment's tracking server."""
    with context(metadata, env) as loaded:
        from clips_pipeline.registry.lineage.tags import load_record

        yield load_record(name or loaded.params["register"]["name"], version)


@contextmanager
def registry(metadata: Any, name: str | None, env: str | None) -> Iterator[Any]:
    """Yield the environment's names of the registered model and its aliases."""
    with context(metadata, env) as loaded:
        from clips_pipeline.config import from_mapping
        from clips_pipeline.registry.config import RegistryConfig

        mapping = {**loaded.params["register"], **({"name": name} if name else {})}
        yield from_mapping(RegistryConfig, mapping, "register")
