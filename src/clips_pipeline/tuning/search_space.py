"""Search space: suggest the values of a trial, and merge them into the parameters of `train`."""

import copy
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna

from clips_pipeline.config import ConfigError, flatten, from_mapping, to_mapping
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.resolve import check_model
from clips_pipeline.tuning.config import Dimension, Scalar, SearchConfig, Value

_MAX_COMBINATIONS = 1024


def suggest(trial: optuna.Trial, space: Mapping[str, Dimension]) -> dict[str, Value]:
    """Return one value per path, suggested by Optuna in the order of the space.

    Args:
        trial: Optuna's trial.
        space: dimension of each dotted path below `train`.

    Returns:
        One value per path. A dimension with `or_null` adds the Optuna parameter "PATH is null".
    """
    return {path: _suggest_one(trial, path, dimension) for path, dimension in space.items()}


def _suggest_one(trial: optuna.Trial, path: str, dimension: Dimension) -> Value:
    if dimension.kind == "categorical":
        params = [_param(choice) for choice in dimension.choices]
        chosen = trial.suggest_categorical(path, params)
        # With the type, because true equals 1.
        return dimension.choices[[(type(one), one) for one in params].index((type(chosen), chosen))]
    low, high = dimension.low, dimension.high
    if low is None or high is None:  # For the type checker; `Dimension` guarantees both.
        raise ConfigError(f"search.space.{path}: needs low and high")
    if dimension.or_null and trial.suggest_categorical(_null_param(path), (False, True)):
        return None
    if dimension.kind == "int":
        return trial.suggest_int(path, int(low), int(high), log=dimension.log)
    return trial.suggest_float(path, low, high, log=dimension.log)


def _param(value: Value | list[str]) -> Scalar:
    """Return the value as Optuna stores it, which takes no lists."""
    return json.dumps(list(value)) if isinstance(value, tuple | list) else value


def optuna_params(space: Mapping[str, Dimension], values: Mapping[str, Value]) -> dict[str, Scalar]:
    """Return the Optuna parameters for which `suggest` returns `values`; missing paths stay free."""
    params: dict[str, Scalar] = {}
    for path, value in values.items():
        if space[path].or_null:
            params[_null_param(path)] = value is None
        if value is not None or space[path].kind == "categorical":
            params[path] = _param(value)
    return params


def _null_param(path: str) -> str:
    return f"{path} is null"


def grid_points(space: Mapping[str, Dimension]) -> list[dict[str, Value]]:
    """Return every combination of the dimensions' values; the last path changes fastest."""
    axes = [[(path, value) for value in _grid_values(dimension)] for path, dimension in space.items()]
    return [dict(point) for point in itertools.product(*axes)]


def _grid_values(dimension: Dimension) -> tuple[Value, ...]:
    low, high = dimension.low, dimension.high
    if dimension.kind == "categorical" or low is None or high is None:
        return dimension.choices
    null: tuple[Scalar, ...] = (None,) if dimension.or_null else ()
    if dimension.kind == "int" and dimension.points is None:
        return (*range(int(low), int(high) + 1), *null)  # every value, also with `log`
    count = dimension.points or 1
    points = np.geomspace(low, high, count) if dimension.log else np.linspace(low, high, count)
    # Clip: rounding errors may leave the range.
    inside = [min(max(float(value), low), high) for value in points]
    values: list[Scalar] = [round(value) for value in inside] if dimension.kind == "int" else list(inside)
    return (*dict.fromkeys(values), *null)


def merge(parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `parameters` with `values` set at their dotted paths.

    Raises:
        ConfigError: a path leads through a value that is not a mapping.
    """
    result = copy.deepcopy(dict(parameters))
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node: Any = result
        for depth, parent in enumerate(parents, start=1):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                group = ".".join(parents[:depth])
                raise ConfigError(f"search.space.{path}: train.{group} is not a group of parameters; correct the path")
        node[leaf] = value
    return result


def trial_parameters(config: SearchConfig, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `train` parameters of a trial: its values, the budget's samples, and evenly spaced evaluations.

    A checkpoint is written at least at every evaluation, so a killed trial loses at most the steps since the last one.

    Args:
        config: budget of the search.
        parameters: parameters of `train` that all trials share.
        values: value of each searched path.

    Raises:
        ConfigError: the values give an invalid training.
    """
    merged = merge(parameters, values) | {"samples": config.samples}
    train = from_mapping(TrainConfig, merged, where="train")
    every = max(1, -(-train.steps // config.evaluations))
    # Otherwise an unfinished training in the trial's run folder, left by a deleted study, is refused.
    own = {
        "every.evaluate": every,
        "every.checkpoint": min(every, train.every.checkpoint),
        "launch.on_change": "restart",
    }
    return merge(merged, own)


def first_trial_values(config: SearchConfig, train_parameters: Mapping[str, Any]) -> dict[str, Value]:
    """Return the training's own values (by default the paper's) that lie within the search space.

    They are the first trial, so that a search includes the current configuration. The sampler chooses the values of
    the other paths.

    Args:
        config: the search.
        train_parameters: parameters of `train` before the search changes them.
    """
    own = flatten(to_mapping(from_mapping(TrainConfig, train_parameters, where="train")))
    return {
        path: own[path] for path, dimension in config.space.items() if path in own and dimension.contains(own[path])
    }


def check_space(config: SearchConfig, train_parameters: Mapping[str, Any]) -> None:
    """Check that every path is a parameter of `train`, and that the extreme values give valid trainings.

    Combinations of extreme values are checked too, up to 1,024 of them.

    Raises:
        ConfigError: `train.launch.start` is false, `search.samples` is below one batch, a path cannot be searched, or a
            value or combination gives an invalid training.
    """
    own = from_mapping(TrainConfig, train_parameters, where="train")
    if not own.launch.start:
        raise ConfigError("train.launch.start: false, but a search starts its own trainings; set it to true")
    if config.samples < own.batch_size:
        raise ConfigError(
            f"search.samples: {config.samples} is less than one batch (train.batch_size is {own.batch_size}); raise it"
        )
    for path, dimension in config.space.items():
        _check_path(path, config)
        for value in dimension.extreme_values:
            try:
                changed = from_mapping(TrainConfig, merge(train_parameters, {path: value}), where="train")
                if path.startswith("optimizer."):
                    check_model(changed, 0)
            except ConfigError as error:
                raise ConfigError(f"search.space.{path}: {error}") from None
    _check_combinations(config, train_parameters)


def _check_path(path: str, config: SearchConfig) -> None:
    if path == "samples" or path.split(".")[0] in ("every", "launch"):
        raise ConfigError(f"search.space.{path}: `samples`, `every` and `launch` cannot be searched; remove it")
    above = next((other for other in config.space if path.startswith(f"{other}.")), None)
    if above is not None:
        raise ConfigError(f"search.space.{path}: its parent {above} is searched too; remove one of them")


def _check_combinations(config: SearchConfig, train_parameters: Mapping[str, Any]) -> None:
    extreme_values = [[(path, value) for value in dimension.extreme_values] for path, dimension in config.space.items()]
    for combination in itertools.islice(itertools.product(*extreme_values), _MAX_COMBINATIONS):
        try:
            trial_parameters(config, train_parameters, dict(combination))
        except ConfigError as error:
            values = ", ".join(f"{path} = {value}" for path, value in combination)
            raise ConfigError(f"search.space: the combination {values} is not valid: {error}") from None
