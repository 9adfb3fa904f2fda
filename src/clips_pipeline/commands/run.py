"""`kedro run` with one-line errors and with lists in `--params`."""

import copy
from typing import Any

import click
import yaml
from kedro.framework.cli.project import run as kedro_run
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from clips_pipeline.commands.refusals import check_pipelines, refusals


def _run_with_refusals(**options: Any) -> Any:
    with refusals(options["env"], options["conf_source"]):
        check_pipelines([*filter(None, [options["pipeline"]]), *options["pipelines"]])
        return kedro_run.callback(**options)  # type: ignore[misc]  # Kedro's command has a callback


def split_parameters(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Return the nested parameters of `a=1,b.c=[2,3]`. Kedro splits at every comma, even inside lists."""
    if isinstance(value, dict):
        return value
    items = []
    for item in filter(str.strip, _split_outside_brackets(value)):
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            ctx.fail(f"--{param.name}: {item.strip()!r} is not key=value; write a list as 'key=[2,3]', in quotes")
        items.append(f"{key.strip()}={text.strip()}")
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist(items))
    except (yaml.YAMLError, OmegaConfBaseException):
        ctx.fail(f"--{param.name}: {value!r} cannot be parsed; write a list as 'key=[2,3]', in quotes")


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def run_command() -> click.Command:
    """Return Kedro's `run` with this project's errors and its parsing of `--params`."""
    command = copy.copy(kedro_run)
    command.callback = _run_with_refusals
    command.params = [copy.copy(option) for option in kedro_run.params]
    for option in command.params:
        if option.name == "params":
            option.callback = split_parameters
    return command
