"""Configuration of registration and tracking. Does not import MLflow."""

import re
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from clips_pipeline.config import ConfigError, NonNegativeFloat


@dataclass(frozen=True)
class GateConfig:
    """Conditions under which a new model becomes champion.

    Attributes:
        minimum_win: the improvement of the deciding metric, in the metric's unit, that the new model must exceed.
        confidence: fraction of bootstrap resamples in which it must exceed it; None compares the two numbers without a
            bootstrap.
        floors: for other metrics, by key, how much worse the new model may be.
        resamples: number of bootstrap resamples.
    """

    minimum_win: NonNegativeFloat = 0.0
    confidence: Annotated[float, Ge(0.5), Lt(1)] | None = 0.95
    floors: dict[str, NonNegativeFloat] = field(default_factory=dict)
    resamples: Annotated[int, Ge(1), Le(10_000_000)] = 10_000


@dataclass(frozen=True)
class RegistryConfig:
    """Where models are registered, and how the champion is chosen.

    Attributes:
        name: name of the registered model; must not contain '/' or ':'.
        alias: alias of the version that production loads (`models:/<name>@<alias>`).
        challenger: alias of the version that lost the last comparison.
        metric: key of `metrics.json` by which models are compared.
        gate: what a new model must show to get `alias`.
    """

    name: str = "clips"
    alias: str = "champion"
    challenger: str = "challenger"
    metric: str = "retrieval/scenes/mean_recall@1"
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        if not self.name.strip() or re.search(r"[/:]", self.name):
            raise ConfigError(f"name: {self.name!r} must not be empty or contain '/' or ':'; choose another name")
        for key in ("alias", "challenger"):
            value = getattr(self, key)
            if not re.fullmatch(r"[A-Za-z][\w-]*", value) or re.fullmatch(r"(?i)latest|v\d+", value):
                raise ConfigError(
                    f"{key}: {value!r} must start with a letter and be neither 'latest' nor like 'v1'; choose another"
                )
        if self.alias == self.challenger:
            raise ConfigError(f"challenger: {self.challenger!r} is also the alias of the champion; choose another")
        if self.metric.count("/") != 2:
            raise ConfigError(
                f"metric: {self.metric!r} is not a key of metrics.json; write one such as retrieval/scenes/mean_recall@1"
            )


@dataclass(frozen=True)
class TrackingConfig:
    """What MLflow records beside metrics.

    Attributes:
        system_metrics: whether to record the machine's load, as metrics `system/…` of the run.
        interval_s: seconds between two samples.
    """

    system_metrics: bool = False
    interval_s: Annotated[float, Gt(0)] = 10.0
