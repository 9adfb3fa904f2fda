"""The next stage of a schedule: what it starts from, and how it differs from the training before. Loads no torch."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clips_pipeline.config import ConfigError


def _recipe() -> dict[str, Any]:
    # A fortieth of the learning rate and a twelfth of the samples: stages 1 and 2 of docs/training.md.
    return {
        "model": {"image_size": 128},
        "optimizer": {"peak_lr": 1.5e-5, "final_lr": 0.0, "warmup_samples": 280},
        "samples": 11_200,
    }


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning at another resolution.

    Attributes:
        start: what it begins with: a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/ID/PATH` or the id of an
            MLflow run. None is the model that `train` made in this environment.
        train: keys of the group `train` that have another value in this stage; the others are taken from there.
    """

    start: str | None = None
    train: dict[str, Any] = field(default_factory=_recipe)

    def __post_init__(self) -> None:
        model = self.train.get("model")
        if isinstance(model, Mapping) and "initial_weights" in model:
            raise ConfigError("train.model.initial_weights: set finetune.start, which takes the same values")

    def parameters(self, train: Mapping[str, Any], start: str) -> dict[str, Any]:
        """The group `train` of this stage.

        Args:
            train: of the stage before.
            start: where no other start is configured.
        """
        changes = merge(self.train, {"model": {"initial_weights": self.start or start}})
        return merge(train, changes)


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`lower` with what `upper` says, mappings within mappings merged."""
    merged = copy.deepcopy(dict(lower))
    for key, value in upper.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged
