"""What can be set about registering. Loads no MLflow."""

import re
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from clips_pipeline.config import ConfigError, NonNegativeFloat


@dataclass(frozen=True)
class GateConfig:
    """What a new model must show.

    Attributes:
        minimum_win: of the deciding metric, in its own unit; the difference must be greater.
        confidence: share of the bootstrap's resamplings in which it must be; None looks at the two numbers alone.
        floors: by key of another metric, how much the new model may be worse there.
        resamples: of the bootstrap.
    """

    minimum_win: NonNegativeFloat = 0.0
    confidence: Annotated[float, Ge(0.5), Lt(1)] | None = 0.95
    floors: dict[str, NonNegativeFloat] = field(default_factory=dict)
    resamples: Annotated[int, Ge(1), Le(10_000_000)] = 10_000


@dataclass(frozen=True)
class RegistryConfig:
    """Where models go and what decides.

    Attributes:
        name: the registered model; no '/' and no ':'.
        alias: what production loads (`models:/<name>@<alias>`).
        challenger: the alias of the loser of the last comparison.
        metric: the key of `metrics.json` by which models are compared.
        gate: what a new model must show to get `alias`.
    """

    name: str = "clips"
    alias: str = "champion"
    challenger: str = "challenger"
    metric: str = "retrieval/scenes/mean_recall@1"
    gate: GateConfig = field(default_factory=GateConfig)

    def __post_init__(self) -> None:
        if not self.name.strip() or re.search(r"[/:]", self.name):
            raise ConfigError(f"name: {self.name!r} must not be empty or contain '/' or ':'")
        for key in ("alias", "challenger"):
            value = getattr(self, key)
            if not re.fullmatch(r"[A-Za-z][\w-]*", value) or re.fullmatch(r"(?i)latest|v\d+", value):
                raise ConfigError(f"{key}: {value!r} must start with a letter and be neither 'latest' nor like 'v1'")
        if self.alias == self.challenger:
            raise ConfigError(f"challenger: {self.challenger!r} is the alias of the champion too; name another one")
        if self.metric.count("/") != 2:
            raise ConfigError(
                f"metric: {self.metric!r} is no key of metrics.json, such as retrieval/scenes/mean_recall@1"
            )


@dataclass(frozen=True)
class TrackingConfig:
    """What MLflow records beside metrics.

    Attributes:
        system_metrics: whether the machine is watched, as metrics `system/…` of the run.
        interval_s: seconds between two samples.
    """

    system_metrics: bool = False
    interval_s: Annotated[float, Gt(0)] = 10.0
