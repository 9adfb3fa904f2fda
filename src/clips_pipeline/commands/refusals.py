"""Errors in the configuration as one-line messages of a command."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import yaml
from omegaconf.errors import OmegaConfBaseException

from clips_pipeline.config import ConfigError
from clips_pipeline.io.terminal import shown_path


class RefusedError(click.ClickException):
    """A one-line message, with the exit code of all configuration errors."""

    exit_code = 2


@contextmanager
def refusals(env: str | None, conf_source: str | None = None) -> Iterator[None]:
    """Turn errors in the configuration into one-line messages."""
    _check_environment(env or os.environ.get("KEDRO_ENV"), conf_source)
    try:
        yield
    except yaml.YAMLError as error:
        raise RefusedError(_explain_yaml(" ".join(str(error).split()))) from None
    except ConfigError as error:
        raise RefusedError(" ".join(str(error).split())) from None
    except OmegaConfBaseException as error:
        problem = str(error).splitlines()[0]
        # OmegaConf does not say for which key.
        merging = "Cannot merge DictConfig with ListConfig"
        remedy = "; a key is a list here and a mapping there (--params, the environment, conf/base): write one form"
        raise RefusedError(f"configuration: {problem}{remedy if problem == merging else ''}") from None


def _explain_yaml(message: str) -> str:
    """Return where and why a file is no YAML; Kedro's message names the file, but often another line."""
    found = re.search(r"file (\S.*\.ya?ml), unable to read", message)
    if found is None:
        return message
    try:
        yaml.safe_load(Path(found[1]).read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, str(error.problem)
        where = f"{shown_path(found[1])}, line {mark.line + 1}, column {mark.column + 1}" if mark else found[1]
        remedy = "indent with spaces, not with tabs" if "'\\t'" in problem else "repair this line, or the one before it"
        return f"{where}: {problem}; {remedy}"
    except (OSError, ValueError, yaml.YAMLError):
        return message
    return message


def _check_environment(env: str | None, conf_source: str | None) -> None:
    if env is None:
        return
    from kedro.framework.project import settings
    from kedro.utils import find_kedro_project

    folder = Path(conf_source or (find_kedro_project(Path.cwd()) or Path.cwd()) / settings.CONF_SOURCE)
    if not folder.is_dir() or (folder / env).is_dir():
        return
    known = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in ("base", "local"))
    search = "; `kedro run --pipelines search` creates it" if env == "best" else ""
    raise RefusedError(
        f"--env {env}: no folder {folder / env}{_nearest(env, known)}; known: {', '.join(known)}{search}"
    )


def check_pipelines(names: Sequence[str]) -> None:
    """Refuse names of pipelines that do not exist.

    Raises:
        RefusedError: a name is unknown.
    """
    from kedro.framework.project import pipelines

    for name in names:
        if name not in pipelines:
            known = sorted(set(pipelines) - {"__default__"})
            raise RefusedError(f"--pipelines {name}: unknown{_nearest(name, known)}; known: {', '.join(known)}")


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""
