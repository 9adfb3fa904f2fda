"""The next training stage: its initial weights, and its changes to the parameters of the stage before. Does not import torch."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clips_pipeline.config import ConfigError


def _recipe() -> dict[str, Any]:
    # As from stage 1 to stage 2 of docs/explanation/method.md: a fortieth of the learning rate, a twelfth of the samples.
    return {
        "model": {"image_size": 128},
        "optimizer": {"peak_lr": 1.5e-5, "final_lr": 0.0, "warmup_samples": 280},
        "samples": 11_200,
    }


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning at another resolution.

    Attributes:
        start: the model to start from: a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID/PATH` or the id of an
            MLflow run. None is the model that `train` exported in this environment.
        train: keys of the group `train` that differ in this stage; all others are taken from there.
    """

    start: str | None = None
    train: dict[str, Any] = field(default_factory=_recipe)

    def __post_init__(self) -> None:
        model = self.train.get("model")
        if isinstance(model, Mapping) and "initial_weights" in model:
            raise ConfigError("train.model.initial_weights: set finetune.start, which takes the same values")

    def parameters(self, train: Mapping[str, Any], start: str) -> dict[str, Any]:
        """Return the group `train` of this stage.

        Args:
            train: the group `train` of the stage before.
            start: the model to start from if `self.start` is None.
        """
        changes = merge(self.train, {"model": {"initial_weights": self.start or start}})
        return merge(train, changes)


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `lower`, updated recursively with `upper`."""
    merged = copy.deepcopy(dict(lower))
    for key, value in upper.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged
