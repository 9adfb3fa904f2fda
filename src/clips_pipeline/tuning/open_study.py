"""Create or load the Optuna study, and refuse one with another objective before the first trial."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import CategoricalDistribution

from clips_pipeline.config import ConfigError, flatten, to_mapping
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.tuning.config import SearchConfig
from clips_pipeline.tuning.search_space import first_trial_values, optuna_params
from clips_pipeline.tuning.storage import StudyStorage, ignore_experimental_warnings

FLOPS = "FLOPs per sample"
OBJECTIVE = "objective"
PARENT = "mlflow_run_id"
_LARGEST_SEED = 2**32
_COST: tuple[Literal["minimize"], ...] = ("minimize",)


def open_study(
    config: SearchConfig,
    storage: StudyStorage,
    spec: RunSpec,
    train_parameters: Mapping[str, Any],
    parent_run_id: str | None,
) -> optuna.Study:
    """Return the study of the configured name. A new study is created with its first trial queued.

    Args:
        config: configuration of the search.
        storage: the study's storage.
        spec: run spec of a trial with the training's own values, for the data and all parameters that are not searched.
        train_parameters: their values are the first trial.
        parent_run_id: the tracker's run of this search. The first one to open the study stays its parent run.

    Raises:
        ConfigError: a study of this name has another objective, or other choices of a categorical.
    """
    names = [config.metric, *([FLOPS] if config.cost else [])]
    directions: list[Literal["minimize", "maximize"]] = [config.direction, *_COST[: config.cost]]
    objective = objective_settings(config, spec)
    with storage.lock():
        _check_same_objective(config, storage, objective, directions)
        study = optuna.create_study(
            study_name=config.study_name,
            storage=storage.backend,
            pruner=build_pruner(config),
            directions=directions,
            load_if_exists=True,
        )
        if OBJECTIVE not in study.user_attrs:
            with ignore_experimental_warnings():
                study.set_metric_names(names)
            if not study.get_trials(deepcopy=False):
                own = optuna_params(config.space, first_trial_values(config, train_parameters))
                study.enqueue_trial(own, user_attrs={"origin": "train parameters"})
            # Set last: a study whose process was killed before this line is completed here.
            study.set_user_attr(OBJECTIVE, objective)
        if parent_run_id is not None and PARENT not in study.user_attrs:
            study.set_user_attr(PARENT, parent_run_id)
    return study


def objective_settings(config: SearchConfig, spec: RunSpec) -> dict[str, Any]:
    """Return what makes two scores comparable: the metric, the data, and every parameter that is not searched."""
    train = flatten(to_mapping(spec.train))
    for path in list(train):
        searched = any(path == other or path.startswith(f"{other}.") for other in config.space)
        # A group that is null by default (`ema`) is the parent of the parameters searched in it.
        above = any(other.startswith(f"{path}.") for other in config.space)
        if searched or above or path.split(".")[0] in ("every", "launch"):
            del train[path]
    return {
        "metric": config.metric,
        "direction": config.direction,
        "cost": config.cost,
        "data": spec.data_version,
        "tokenizer": spec.tokenizer_version,
        **{f"train.{path}": value for path, value in train.items()},
    }


def _check_same_objective(
    config: SearchConfig, storage: StudyStorage, objective: Mapping[str, Any], directions: Sequence[str]
) -> None:
    if config.study_name not in optuna.get_all_study_names(storage.backend):
        return
    study = optuna.load_study(study_name=config.study_name, storage=storage.backend)
    remedy = "choose another search.study_name, or restore the configuration"
    where = f"search.study_name: {config.study_name!r} in {storage.display_url}"
    theirs = [direction.name.lower() for direction in study.directions]
    if theirs != list(directions):
        raise ConfigError(f"{where} has another objective ({theirs} instead of {list(directions)}); {remedy}")
    before = study.user_attrs.get(OBJECTIVE)
    if before is None:
        # A study whose process was killed while creating it has no trial that ran.
        if any(trial.state != optuna.trial.TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
            raise ConfigError(f"{where} was not created by this pipeline; {remedy}")
        return
    # A path that was added to the space, or removed, is on one side only; it does not make scores incomparable.
    different = [key for key in sorted(before.keys() & objective.keys()) if before[key] != objective[key]]
    if different:
        named = "; ".join(f"{key} was {before[key]!r} and is now {objective[key]!r}" for key in different[:5])
        raise ConfigError(f"{where} has another objective: {named}; {remedy}")
    _check_same_choices(config, study, where, remedy)


def _check_same_choices(config: SearchConfig, study: optuna.Study, where: str, remedy: str) -> None:
    for trial in study.get_trials(deepcopy=False):
        for path, distribution in trial.distributions.items():
            dimension = config.space.get(path)
            if dimension is None:
                continue
            # Ranges have no choices.
            chosen = tuple(distribution.choices) if isinstance(distribution, CategoricalDistribution) else ()
            same = chosen == dimension.choices
            if not same:
                raise ConfigError(
                    f"{where} has other choices for {path}, and Optuna cannot change them within a study; {remedy}"
                )


def sampler(config: SearchConfig, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler for trial `number`. Its values depend only on the seed, the number and the history.

    So processes with one seed draw different points, and a search that was interrupted draws the same points
    afterwards.
    """
    seed = (config.seed * 1_000_003 + number) % _LARGEST_SEED
    if config.sampler.kind == "tpe":
        # Parallel processes avoid the points that others are evaluating.
        return optuna.samplers.TPESampler(n_startup_trials=config.sampler.startup_trials, seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def build_pruner(config: SearchConfig) -> optuna.pruners.BasePruner:
    """Return the pruner. Its steps are the numbers of the evaluations within a trial, from 1."""
    first = config.pruner.warmup_evaluations + 1
    if config.pruner.kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=config.pruner.startup_trials, n_warmup_steps=first)
    if config.pruner.kind == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
    return optuna.pruners.NopPruner()
