"""Suggestions from the search space, and its validation."""

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.tuning.config import Dimension, SearchConfig
from clips_pipeline.tuning.search_space import (
    check_space,
    first_trial_values,
    grid_points,
    merge,
    optuna_params,
    suggest,
    trial_parameters,
)
from clips_pipeline.tuning.trial import trials_folder


def test_every_kind_is_suggested_within_its_bounds() -> None:
    space = {
        "a.f": Dimension("float", low=0.1, high=10.0, log=True),
        "a.i": Dimension("int", low=2, high=5),
        "c": Dimension("categorical", choices=("x", None)),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [suggest(study.ask(), space) for _ in range(50)]
    assert all(0.1 <= values["a.f"] <= 10.0 for values in seen)
    assert {values["a.i"] for values in seen} == {2, 3, 4, 5}
    assert {values["c"] for values in seen} == {"x", None}


def test_paths_become_trees_and_overlay_parameters() -> None:
    assert merge({}, {"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    original = {"a": {"b": 0, "z": 9}}
    assert merge(original, {"a.b": 1, "n.m": 2}) == {"a": {"b": 1, "z": 9}, "n": {"m": 2}}
    assert original == {"a": {"b": 0, "z": 9}}


def test_a_path_through_a_value_is_refused_by_its_full_name() -> None:
    with pytest.raises(ConfigError, match=r"^search\.space\.model\.size\.width: train\.model\.size is not a group"):
        merge({"model": {"size": "tiny"}}, {"model.size.width": 1})


def test_the_first_trial_has_the_trainings_values() -> None:
    own = {
        "loss": {"caption_weight": 2.0, "contrastive_weight": 1.0},
        "captions": {"fragment": {"strategy": "block_mask"}},
    }
    values = first_trial_values(SearchConfig(), own)
    assert values["loss.caption_weight"] == 2.0
    assert values["captions.fragment.strategy"] == "block_mask"
    assert values["captions.fragment.tokens"] is None
    narrow = SearchConfig(space={"captions.fragment.tokens": Dimension("int", low=6, high=48)})
    assert first_trial_values(narrow, own) == {}  # ranges without or_null do not contain null
    in_a_group_that_is_null = SearchConfig(space={"ema.half_life_batches": Dimension("int", low=2, high=9)})
    assert first_trial_values(in_a_group_that_is_null, own) == {}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"loss.caption_wait": {"kind": "float", "low": 1.0, "high": 2.0}}, "did you mean 'caption_weight'?"),
        ({"loss.caption_weight": {"kind": "float", "low": -1.0, "high": 2.0}}, "must be at least 0"),
        ({"captions.fragment.strategy": {"kind": "categorical", "choices": ["best"]}}, "'best' is not one of"),
    ],
)
def test_a_space_with_unknown_parameters_is_refused(space: dict[str, object], message: str) -> None:
    config = from_mapping(SearchConfig, {"space": space}, "search")
    with pytest.raises(ConfigError) as caught:
        check_space(config, {})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "dimension",
    [
        {"kind": "float", "low": 2.0, "high": 1.0},
        {"kind": "float", "low": 0.0, "high": 1.0, "log": True},
        {"kind": "categorical"},
        {"kind": "int", "choices": [1]},
    ],
)
def test_contradictory_dimensions_are_refused(dimension: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="search"):
        from_mapping(SearchConfig, {"space": {"samples": dimension}}, "search")


def test_paper_space_fits_the_defaults() -> None:
    check_space(SearchConfig(), {})
    assert TrainConfig() == from_mapping(TrainConfig, {}, "train")


def test_a_search_requires_launch_start() -> None:
    with pytest.raises(ConfigError, match=r"train\.launch\.start: false"):
        check_space(SearchConfig(), {"launch": {"start": False}})


def test_a_trial_has_the_budget_and_its_evaluations() -> None:
    config = SearchConfig(samples=64 * 10, evaluations=4)
    found = trial_parameters(config, {"optimizer": {"warmup_samples": 0}}, {"loss.caption_weight": 1.0})
    train = from_mapping(TrainConfig, found, "train")
    assert (train.steps, train.every.evaluate, train.every.checkpoint) == (10, 3, 3)  # at steps 3, 6, 9 and the last
    assert train.loss.caption_weight == 1.0


def test_two_studies_do_not_share_run_folders(tmp_path: Path) -> None:
    assert trials_folder(tmp_path, "a") != trials_folder(tmp_path, "b")
    assert trials_folder(tmp_path, "../a b").parent == tmp_path / "trials"


def test_null_of_a_range_is_drawn_and_can_be_enqueued() -> None:
    space = {"captions.fragment.tokens": Dimension("int", low=6, high=7, or_null=True)}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {suggest(study.ask(), space)["captions.fragment.tokens"] for _ in range(40)} == {None, 6, 7}
    for value in (None, 7):
        study.enqueue_trial(optuna_params(space, {"captions.fragment.tokens": value}))
        assert suggest(study.ask(), space) == {"captions.fragment.tokens": value}


def test_a_grid_stays_within_its_ranges() -> None:
    space = {
        "a": Dimension("float", low=0.1, high=10.0, log=True, points=3),
        "b": Dimension("int", low=6, high=48, log=True, points=4, or_null=True),
    }
    points = grid_points(space)
    assert len(points) == 3 * 5
    assert sorted({float(str(point["a"])) for point in points}) == pytest.approx([0.1, 1.0, 10.0])
    assert {point["b"] for point in points} == {6, 12, 24, 48, None}
    assert all(space[path].contains(value) for point in points for path, value in point.items())


@pytest.mark.parametrize("log", [False, True])
def test_a_grid_without_points_has_every_whole_number(log: bool) -> None:
    points = grid_points({"a": Dimension("int", low=6, high=48, log=log, or_null=True)})
    assert [point["a"] for point in points] == [*range(6, 49), None]


def test_sets_of_captioners_are_choices(tmp_path: Path) -> None:
    """Optuna takes no lists, so it stores them as text; a trial gets the list, and so does the result."""
    path = "captions.captioners"
    choices = [None, ["llava"], ["llava", "blip"], 1, True]
    dimension = from_mapping(Dimension, {"kind": "categorical", "choices": choices}, "space")
    assert dimension.choices == (None, ("llava",), ("llava", "blip"), 1, True)
    space = {path: dimension}
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", sampler=optuna.samplers.RandomSampler(seed=0))
    seen = {(type(found), found) for found in (suggest(study.ask(), space)[path] for _ in range(40))}
    assert seen == {(type(choice), choice) for choice in dimension.choices}
    for point in grid_points(space):
        study.enqueue_trial(optuna_params(space, point))
        assert suggest(study.ask(), space) == point
    assert merge({}, {path: ("llava",)}) == {"captions": {"captioners": ("llava",)}}
    config = SearchConfig(
        trials=1, samples=64_000, space={path: Dimension("categorical", choices=(None, ("llava", "blip")))}
    )
    own = {"captions": {"captioners": ["llava", "blip"]}}
    first = first_trial_values(config, own)
    assert optuna_params(config.space, first) == {path: '["llava", "blip"]'}
    check_space(config, own)
    merged = trial_parameters(config, own, {path: ("llava",)})
    assert from_mapping(TrainConfig, merged, "train").captions.captioners == ("llava",)
    with pytest.raises(ConfigError, match=r"search\.space\.captions\.captioners: .*none of them twice"):
        check_space(replace(config, space={path: Dimension("categorical", choices=(("a", "a"),))}), own)
