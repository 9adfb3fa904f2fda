"""From a trial to parameters: suggestions by path, merged over the training's own parameters."""

import copy
from collections.abc import Mapping
from typing import Any

import optuna

from clips_pipeline.config import ConfigError
from clips_pipeline.tuning.config import Dimension, Scalar


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension]) -> dict[str, Scalar]:
    """One value per path, in the order of the space."""
    return {path: _suggest_one(trial, path, dimension) for path, dimension in space.items()}


def _suggest_one(trial: optuna.Trial, path: str, dimension: Dimension) -> Scalar:
    if dimension.kind == "categorical":
        chosen: Scalar = trial.suggest_categorical(path, dimension.choices)
        return chosen
    low, high = dimension.low, dimension.high
    if low is None or high is None:  # Dimension has refused this already; the type checker cannot know
        raise ConfigError(f"search.space.{path}: needs low and high")
    if dimension.kind == "int":
        return trial.suggest_int(path, int(low), int(high), log=dimension.log)
    return trial.suggest_float(path, low, high, log=dimension.log)


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def merged(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`parameters` with the values of the paths put in place; the original is not changed.

    Raises:
        ConfigError: a path runs through something that is no mapping.
    """
    result = copy.deepcopy(dict(parameters))
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node: Any = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"search.space.{path}: train.{parent} is no group of parameters")
        node[leaf] = value
    return result
