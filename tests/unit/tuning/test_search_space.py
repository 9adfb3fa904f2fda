"""Suggestions, and the space's border."""

import optuna
import pytest

from clips_pipeline.config import ConfigError, from_mapping
from clips_pipeline.training.config import TrainConfig
from clips_pipeline.tuning.config import Dimension, SearchConfig
from clips_pipeline.tuning.search_space import merged, nested, suggest
from clips_pipeline.tuning.study import check_space, first_trial


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
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    original = {"a": {"b": 0, "z": 9}}
    assert merged(original, {"a.b": 1, "n.m": 2}) == {"a": {"b": 1, "z": 9}, "n": {"m": 2}}
    assert original == {"a": {"b": 0, "z": 9}}


def test_the_first_trial_is_what_one_has() -> None:
    own = {
        "loss": {"caption_weight": 2.0, "contrastive_weight": 1.0},
        "captions": {"fragment": {"strategy": "block_mask"}},
    }
    values = first_trial(SearchConfig(), own)
    assert values["loss.caption_weight"] == 2.0
    assert values["captions.fragment.strategy"] == "block_mask"
    assert "captions.fragment.tokens" not in values  # null lies in no range


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"loss.caption_wait": {"kind": "float", "low": 1.0, "high": 2.0}}, "did you mean 'caption_weight'?"),
        ({"loss.caption_weight": {"kind": "float", "low": -1.0, "high": 2.0}}, "must not be negative"),
        ({"captions.fragment.strategy": {"kind": "categorical", "choices": ["best"]}}, "'best' is not one of"),
    ],
)
def test_a_space_that_fits_no_parameter_is_refused(space: dict[str, object], message: str) -> None:
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


def test_a_search_starts_its_trials_itself() -> None:
    with pytest.raises(ConfigError, match=r"train\.launch\.start is false"):
        check_space(SearchConfig(), {"launch": {"start": False}})
