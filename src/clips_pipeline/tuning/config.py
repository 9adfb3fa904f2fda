"""What can be set about a search. Loads no Optuna."""

from dataclasses import dataclass, field
from typing import Literal

from clips_pipeline.config import ConfigError

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: a range (`float`, `int`) or a list of choices (`categorical`)."""

    kind: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Scalar, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "categorical":
            if len(self.choices) < 1 or self.low is not None or self.high is not None:
                raise ConfigError("a categorical dimension needs choices, and no low or high")
            return
        if self.choices:
            raise ConfigError(
                f"choices belong to kind: categorical; a dimension of kind {self.kind} takes low and high"
            )
        if self.low is None or self.high is None or self.low > self.high:
            raise ConfigError(f"a dimension of kind {self.kind} needs low <= high")
        if self.log and self.low <= 0:
            raise ConfigError("log: true needs low above 0")


def paper_space() -> dict[str, Dimension]:
    """Fragment strategy and length, and the two loss weights."""
    return {
        "captions.fragment.strategy": Dimension(
            "categorical", choices=("sub_caption", "truncation", "random_mask", "block_mask")
        ),
        "captions.fragment.tokens": Dimension("int", low=6, high=48, log=True),
        "loss.contrastive_weight": Dimension("float", low=0.5, high=2.0, log=True),
        "loss.caption_weight": Dimension("float", low=0.25, high=4.0, log=True),
    }


@dataclass(frozen=True)
class SearchConfig:
    """A study: its space by parameter path under `train`, and its budget.

    Attributes:
        study_name: in the storage `study.db`.
        trials: finished trials the study is to have; a second run adds only what is missing.
        samples: training samples per trial.
        seed: of the sampler.
        metric: a key of the held-out metrics; it is maximised.
        space: dotted path below `train` to its dimension.
    """

    study_name: str = "clips"
    trials: int = 6
    samples: int = 20_000
    seed: int = 0
    metric: str = "mean_recall@1"
    space: dict[str, Dimension] = field(default_factory=paper_space)

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise ConfigError(f"trials is {self.trials}; at least 1 is needed")
        if not self.space:
            raise ConfigError("space is empty; name at least one parameter path")
