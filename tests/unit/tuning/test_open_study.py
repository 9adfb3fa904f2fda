"""Opening of a study, and its queue of trials, without any training."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.training.launch.result import TrainingFailedError, TrainingInterruptedError
from clips_pipeline.training.run_spec import RunSpec
from clips_pipeline.tuning import trial_queue
from clips_pipeline.tuning.config import Dimension, SamplerConfig, SearchConfig, StudyStorageConfig
from clips_pipeline.tuning.open_study import PARENT, open_study, sampler
from clips_pipeline.tuning.search import check_search
from clips_pipeline.tuning.storage import StudyStorage, open_storage
from clips_pipeline.tuning.trial import last_error

SPACE = {
    "loss.caption_weight": Dimension("float", low=0.5, high=4.0, points=3),
    "captions.fragment.tokens": Dimension("int", low=6, high=8, or_null=True),
}


@contextmanager
def opened(
    folder: Path, config: SearchConfig, parameters: dict[str, Any] | None = None, version: str = "v"
) -> Iterator[tuple[optuna.Study, StudyStorage]]:
    spec = RunSpec(from_mapping(TrainConfig, parameters or {}, "train"), "s", "t", "r", "m", version)
    with closing(open_storage(config, folder, {})) as storage:
        yield open_study(config, storage, spec, parameters or {}, "parent-run"), storage


def run_all(folder: Path, config: SearchConfig) -> list[dict[str, Any]]:
    """Run every trial within the budget with a constant score, and return their values."""
    found: list[dict[str, Any]] = []

    def score(attempt: trial_queue.TrialAttempt) -> float:
        found.append(attempt.values)
        return 0.0

    with opened(folder, config) as (study, storage):
        while trial_queue.run_next_trial(study, storage, config, score):
            pass
    return found


def test_the_first_trial_has_the_trainings_values_and_restarts_keep_the_budget(tmp_path: Path) -> None:
    config = SearchConfig(trials=3, space=SPACE)
    first = run_all(tmp_path, config)
    assert first[0] == {"loss.caption_weight": 2.0, "captions.fragment.tokens": None}
    assert len(first) == 3
    assert run_all(tmp_path, config) == []
    assert len(run_all(tmp_path, dataclasses.replace(config, trials=5))) == 2


def test_an_interrupted_search_draws_the_same_points(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    config = SearchConfig(trials=6, space=SPACE, sampler=SamplerConfig(startup_trials=2))
    whole = run_all(tmp_path / "whole", config)
    cut = run_all(tmp_path / "cut", dataclasses.replace(config, trials=2)) + run_all(tmp_path / "cut", config)
    assert cut == whole
    other = run_all(tmp_path, dataclasses.replace(config, seed=1))
    assert other[0] == whole[0]
    assert other[1:] != whole[1:]


def test_a_grid_is_tried_once_after_the_first_trial(tmp_path: Path) -> None:
    config = SearchConfig(trials=100, space=SPACE, sampler=SamplerConfig(kind="grid"))
    found = [tuple(point.values()) for point in run_all(tmp_path, config)]
    points = {(weight, tokens) for weight in (0.5, 2.25, 4.0) for tokens in (6, 7, 8, None)}
    assert found[0] == (2.0, None)
    assert len(found) == 13
    assert set(found[1:]) == points


def test_hours_end_a_search(tmp_path: Path) -> None:
    config = SearchConfig(trials=100, hours=1.0, space=SPACE)
    seconds = iter((1_800.0, 1_900.0))

    def score(attempt: trial_queue.TrialAttempt) -> float:
        attempt.trial.set_user_attr(trial_queue.SECONDS, next(seconds))
        return 0.0

    with opened(tmp_path, config) as (study, storage):
        assert trial_queue.run_next_trial(study, storage, config, score)
        assert trial_queue.run_next_trial(study, storage, config, score)
        assert not trial_queue.run_next_trial(study, storage, config, score)


def killed(attempt: trial_queue.TrialAttempt) -> float:
    raise trial_queue.TrialKilledError("rank 0 was killed")


def test_the_number_of_retries_is_limited(tmp_path: Path) -> None:
    config = SearchConfig(trials=1, retries=2, space=SPACE)
    with opened(tmp_path, config) as (study, storage):
        while trial_queue.run_next_trial(study, storage, config, killed):
            pass
        trials = study.trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3
    assert trial_queue.next_attempts(trials) == {0: 1, 1: 2}
    assert [trial_queue.first_attempt_of(trial) for trial in trials] == [0, 0, 0]
    assert [trial.params for trial in trials] == [trials[0].params] * 3


def test_a_training_that_failed_with_an_error_is_not_retried(tmp_path: Path) -> None:
    def fails(attempt: trial_queue.TrialAttempt) -> float:
        raise TrainingFailedError("a loss is NaN")

    config = SearchConfig(trials=2, space=SPACE)
    with opened(tmp_path, config) as (study, storage):
        while trial_queue.run_next_trial(study, storage, config, fails):
            pass
        assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
        assert trial_queue.next_attempts(study.trials) == {}


@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed")  # `ask` simulates a process that died
@pytest.mark.parametrize("where", ["while it trains", "before its first heartbeat"])
def test_a_trial_of_a_killed_process_is_retried(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = StudyStorageConfig(heartbeat_s=1, grace_s=2)
    config = SearchConfig(trials=2, space=SPACE, storage=fast)
    monkeypatch.setattr(trial_queue, "_WAIT_SECONDS", 0.5)
    with opened(tmp_path, config) as (study, storage):
        # The state after SIGKILL: running, with a last heartbeat or without any.
        trial = study.ask()
        if where == "while it trains":
            trial_queue.start_attempt(trial, study, storage, config)
            assert trial_queue.plan_next_step(study, storage, config) is trial_queue.NextStep.START
            assert study.trials[0].state == TrialState.RUNNING
    found = run_all(tmp_path, config)
    with opened(tmp_path, config) as (study, _):
        states = [trial.state for trial in study.trials]
        assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
        # The killed trial is retried, within the budget.
        assert len({trial_queue.first_attempt_of(trial) for trial in study.trials}) == config.trials
    assert {"loss.caption_weight": 2.0, "captions.fragment.tokens": None} in found


def test_a_trial_taken_over_by_another_process_ends_cleanly(tmp_path: Path) -> None:
    config = SearchConfig(trials=1, space=SPACE)

    def slow(attempt: trial_queue.TrialAttempt) -> float:
        if attempt.trial.number == 0:
            # Another process has found its heartbeat too old.
            with opened(tmp_path, config) as (other, storage):
                other.tell(0, state=TrialState.FAIL)
                storage.retry(other, other.trials[0])
        attempt.trial.set_user_attr(trial_queue.SECONDS, 1.0)
        return 1.0

    with opened(tmp_path, config) as (study, storage):
        while trial_queue.run_next_trial(study, storage, config, slow):
            pass
        assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_parallel_processes_avoid_each_others_points() -> None:
    """TPE with constant_liar treats running trials as bad ones."""
    space = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    study = optuna.create_study(direction="maximize")
    for place in range(20):
        x = place / 20
        study.add_trial(optuna.create_trial(value=-((x - 0.5) ** 2), params={"x": x}, distributions=space))
    drawn = []
    for _ in range(8):
        study.sampler = sampler(SearchConfig(space=SPACE), 7)  # with one seed all would otherwise draw the same point
        drawn.append(study.ask(space).params["x"])
    assert len(set(drawn)) > 4


def test_the_first_parent_run_is_kept(tmp_path: Path) -> None:
    config = SearchConfig(space=SPACE)
    with opened(tmp_path, config) as (study, _):
        study.set_user_attr(PARENT, "first")
    with opened(tmp_path, config) as (study, _):
        assert study.user_attrs[PARENT] == "first"


@pytest.mark.parametrize(
    ("changes", "parameters", "version", "message"),
    [
        (
            {"metric": "text_to_image_recall@5"},
            {},
            "v",
            "metric was 'mean_recall@1' and is now 'text_to_image_recall@5'",
        ),
        ({"direction": "minimize"}, {}, "v", r"has another objective \(\['maximize'\] instead of \['minimize'\]\)"),
        ({"cost": True}, {}, "v", r"\['maximize'\] instead of \['maximize', 'minimize'\]"),
        ({}, {"batch_size": 32}, "v", "train.batch_size was 64 and is now 32"),
        ({}, {}, "other", "data was 'v' and is now 'other'"),
    ],
)
def test_a_study_with_another_objective_is_refused(
    tmp_path: Path, changes: dict[str, Any], parameters: dict[str, Any], version: str, message: str
) -> None:
    from clips_pipeline.tuning.config import PrunerConfig

    config = SearchConfig(space=SPACE, pruner=PrunerConfig(kind="none"))
    with opened(tmp_path, config):
        pass
    with (
        pytest.raises(ConfigError, match=message) as caught,
        opened(tmp_path, dataclasses.replace(config, **changes), parameters, version),
    ):
        pass
    assert "search.study_name: 'clips'" in str(caught.value)
    # The search space and `launch` may change.
    with opened(tmp_path, config, {"loss": {"caption_weight": 1.0}, "launch": {"threads": 1}}):
        pass


def test_changed_choices_of_a_categorical_are_refused(tmp_path: Path) -> None:
    path = "captions.fragment.strategy"
    config = SearchConfig(trials=1, space={path: Dimension("categorical", choices=("sub_caption", "truncation"))})
    run_all(tmp_path, config)
    other = dataclasses.replace(config, space={path: Dimension("categorical", choices=("sub_caption",))})
    with (
        pytest.raises(ConfigError, match=r"has other choices for captions\.fragment\.strategy"),
        opened(tmp_path, other),
    ):
        pass


def test_a_study_created_elsewhere_is_refused(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="clips", storage=f"sqlite:///{tmp_path / 'study.db'}", direction="maximize")
    study.add_trial(optuna.create_trial(value=1.0))
    with (
        pytest.raises(ConfigError, match="was not created by this pipeline"),
        opened(tmp_path, SearchConfig(space=SPACE)),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "search.trials: 0 must be at least 1"),
        ({"hours": 0.0}, "search.hours: 0.0 must be above 0"),
        ({"samples": 10}, "samples: 10 is less than one batch (train.batch_size is 64)"),
        ({"space": {}}, "search.space: empty"),
        ({"metric": "recall"}, "search.metric: 'recall' is unknown; choose one of mean_recall@1"),
        ({"cost": True}, "set pruner.kind to none"),
        ({"evaluations": 1}, "pruning needs at least two evaluations"),
        (
            {"space": {"samples": {"kind": "int", "low": 64, "high": 128}}},
            "`samples`, `every` and `launch` cannot be searched",
        ),
        ({"space": {"loss": {"kind": "int", "low": 1, "high": 2}}}, "expected a mapping"),
        (
            {
                "space": {
                    "loss.contrastive_weight": {"kind": "float", "low": 0.0, "high": 1.0},
                    "loss.caption_weight": {"kind": "float", "low": 0.0, "high": 1.0},
                }
            },
            "loss.contrastive_weight = 0.0, loss.caption_weight = 0.0 is not valid",
        ),
        (
            {
                "sampler": {"kind": "grid"},
                "space": {"loss.caption_weight": {"kind": "float", "low": 0.5, "high": 1.0}},
            },
            "sampler.kind grid needs the number of values",
        ),
        (
            {"space": {"captions.fragment.tokens": {"kind": "int", "low": 6.5, "high": 8.0}}},
            "must be whole numbers",
        ),
        (
            {"space": {"captions.fragment.strategy": {"kind": "categorical", "choices": ["truncation", "truncation"]}}},
            "contains a value twice",
        ),
    ],
)
def test_each_error_gives_one_message(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_search(from_mapping(SearchConfig, settings, "search"), {"optimizer": {"warmup_samples": 0}})
    assert message in str(caught.value)


def test_an_interrupted_trial_uses_no_retry(tmp_path: Path) -> None:
    config = SearchConfig(trials=1, retries=0, space=SPACE)

    def interrupted(attempt: trial_queue.TrialAttempt) -> float:
        raise TrainingInterruptedError("SIGTERM")

    with opened(tmp_path, config) as (study, storage):
        for _ in range(2):
            with pytest.raises(TrainingInterruptedError):
                trial_queue.run_next_trial(study, storage, config, interrupted)
        assert trial_queue.run_next_trial(study, storage, config, killed)
        assert not trial_queue.run_next_trial(study, storage, config, killed)
        assert [trial_queue.first_attempt_of(trial) for trial in study.trials] == [0, 0, 0]


def test_a_training_with_an_error_event_was_not_killed() -> None:
    start, error = {"kind": "start"}, {"kind": "error", "message": "a loss is NaN"}
    assert last_error([start, error]) == error
    assert last_error([start, error, start, {"kind": "step"}]) is None
