"""Every numeric parameter refuses an impossible number before any work, or is listed here as unbounded."""

import copy
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest

from clips_pipeline.config import ConfigError, to_mapping
from clips_pipeline.pipelines.parameters import TYPES, typed
from clips_pipeline.pipelines.parameters_reference import Parameter, parameters
from clips_pipeline.tuning.search_space import merge

NONSENSE = 10**12

LEAST: dict[str, Any] = {
    "prepare.source.folder": {"images": "images", "captions": "captions.json"},
    "prepare.source.img2dataset": {"train": "train.tar"},
    "prepare.source.parquet": {"train": "train.parquet", "columns": {"web": "text"}},
    "prepare.source.recaption": {"train": "train.tar", "tables": "captions.parquet"},
    "prepare.source.clip_benchmark": {"root": "set"},
    "train.model.size": {"base": "tiny"},
    "train.ema": {},
    "train.progressive": {},
    "search.space": {"PATH": {"kind": "float", "low": -1.0, "high": 1.0}},
    "suite.sets": {"PATH": {"kind": "urban1k", "group": "retrieval"}},
}
"""Minimal content of optional groups, so that their values are checked."""

NEGATIVE = {"prepare.filters.min_score", "search.space.PATH.low"}
"""Parameters that allow negative numbers."""

AS_MANY_AS_ONE_LIKES = {
    # Counts of samples, lengths and sizes of the data, which are unbounded in principle.
    *(f"prepare.source.scenes.{key}" for key in ("train", "validation", "test", "samples_per_shard")),
    "prepare.source.folder.images_per_task",
    "prepare.source.parquet.rows_per_task",
    *(f"prepare.source.{kind}.held_out" for kind in ("img2dataset", "recaption")),
    *(f"prepare.source.recaption.{key}" for key in ("memory_mib", "max_conflicts")),
    *(f"prepare.filters.{key}" for key in ("min_side", "max_aspect", "min_score")),
    *(
        f"prepare.filters.{which}.{key}"
        for which in ("web", "synthetic")
        for key in ("min_words", "max_words", "min_characters", "max_characters", "max_run")
    ),
    "prepare.health.samples",
    "train.samples",
    "train.shuffle_window",
    "train.captions.web_tokens",
    "train.ema.half_life_batches",
    "train.loss.contrastive_weight",
    "train.loss.caption_weight",
    "train.optimizer.clip_norm",
    "train.optimizer.peak_lr",
    "train.launch.chunk_size",
    *(f"train.every.{key}" for key in ("log", "evaluate", "checkpoint", "keep_checkpoints")),
    *(f"evaluate.{key}" for key in ("batch_size", "probe_samples", "expected.images", "expected.captions")),
    *(f"search.{key}" for key in ("trials", "hours", "samples", "evaluations", "retries")),
    "search.sampler.startup_trials",
    "search.pruner.startup_trials",
    "search.pruner.warmup_evaluations",
    *(f"search.space.PATH.{key}" for key in ("high", "points")),
    *(f"study.{key}" for key in ("samples", "curve_samples", "hours")),
    *(f"llava_probe.{key}" for key in ("tower_samples", "hours")),
    *(f"llava_probe.questions.{key}" for key in ("train", "validation", "test")),
    "export_benchmark.samples_per_shard",
    "suite.batch_size",
    *(f"suite.sets.PATH.{key}" for key in ("images", "captions", "entries")),
    # Time and disk space.
    *(f"storage.{key}" for key in ("back_off_s", "timeout_s", "cache_gib")),
    "train.launch.stall_warning_s",
    "train.launch.rank_timeout_s",
    "search.storage.timeout_s",
    "search.storage.grace_s",
    "tracking.interval_s",
    "register.gate.minimum_win",
    "register.gate.floors",
}
"""Parameters without an upper bound."""


def numbers(hint: Any) -> bool:
    """Return whether the type contains numbers."""
    origin = get_origin(hint)
    if origin is Annotated:
        return numbers(get_args(hint)[0])
    if origin is dict:
        return numbers(get_args(hint)[1])
    if origin in (Union, types.UnionType, tuple):
        return any(numbers(part) for part in get_args(hint))
    return hint in (int, float)


def numeric() -> Iterator[Parameter]:
    for name, cls in TYPES.items():
        yield from (found for found in parameters(cls, name) if found.group is None and numbers(found.hint))


def refused(found: Parameter, number: float) -> bool:
    """Return whether the group refuses the number, with the key or a rule between two keys in the message."""
    group, *path = found.key.split(".")
    mapping = to_mapping(TYPES[group]())
    for place, least in LEAST.items():
        if found.key.startswith(f"{place}."):
            mapping = merge(mapping, {place.removeprefix(f"{group}."): copy.deepcopy(least)})
    origin, args = get_origin(found.hint), get_args(found.hint)
    value: Any = number
    if origin is tuple:
        value = [number] if args[1:] == (Ellipsis,) else [number] * len(args)
    if origin is dict:
        value = {"retrieval/scenes/recall": number}
    try:
        typed(group, merge(mapping, {".".join(path): value}))
    except ConfigError as error:
        message = str(error)
    else:
        return False
    assert path[-1] in message
    assert "http" not in message
    return True


@pytest.mark.parametrize("found", [*numeric()], ids=lambda found: found.key)
def test_impossible_numbers_are_refused(found: Parameter) -> None:
    assert refused(found, -NONSENSE) != (found.key in NEGATIVE)
    assert refused(found, NONSENSE) != (found.key in AS_MANY_AS_ONE_LIKES)


@pytest.mark.parametrize("found", [*numeric()], ids=lambda found: found.key)
def test_non_numbers_are_refused(found: Parameter) -> None:
    assert refused(found, float("nan"))
    assert refused(found, float("inf"))


def test_listed_exceptions_are_parameters() -> None:
    assert {
        found.key for name, cls in TYPES.items() for found in parameters(cls, name)
    } >= NEGATIVE | AS_MANY_AS_ONE_LIKES
