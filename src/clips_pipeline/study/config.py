"""What a study compares, with how many seeds and samples."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from clips_pipeline.config import ConfigError
from clips_pipeline.text.fragments import Strategy
from clips_pipeline.text.methods import Method

Exhibit = Literal["methods", "methods_at_equal_compute", "fragment_lengths", "web_lengths", "ablations"]
EXHIBITS: Final = get_args(Exhibit)


@dataclass(frozen=True)
class StudyConfig:
    """Settings of `kedro run --pipeline study`.

    Attributes:
        exhibits: what to show.
        seeds: each run is trained once with each.
        samples: training samples of a run of the method tables; at equal compute, of a run of `clips`.
        curve_samples: those of a run of the other exhibits, which have many more lines; None is `samples`.
        methods: of the method tables; `clips` is what the others are compared with.
        strategies: of the fragment curves.
        shares: token budgets, as shares of the mean caption; below 1, the whole caption is always there.
        runs_at_once: trainings side by side, each with its part of the cores; None is one for each core.
        hours: no training begins later than this after the start; the results tell what there is. None is until all is done,
            0 trains nothing.
    """

    exhibits: tuple[Exhibit, ...] = EXHIBITS
    seeds: tuple[int, ...] = (0, 1, 2)
    samples: int = 140_000
    curve_samples: int | None = 50_000
    methods: tuple[Method, ...] = get_args(Method)
    strategies: tuple[Strategy, ...] = get_args(Strategy)
    shares: tuple[float, ...] = (0.5, 0.25, 0.125)
    runs_at_once: int | None = None
    hours: float | None = None

    def __post_init__(self) -> None:
        for key in ("exhibits", "seeds", "methods", "strategies", "shares"):
            values = getattr(self, key)
            if not values:
                raise ConfigError(f"{key}: empty; name at least one")
            if len(set(values)) < len(values):
                raise ConfigError(f"{key}: {list(values)} names one twice")
        if self.samples < 1:
            raise ConfigError(f"samples: {self.samples} must be 1 or more")
        if self.curve_samples is not None and self.curve_samples < 1:
            raise ConfigError(f"curve_samples: {self.curve_samples} must be 1 or more, or null for as many as samples")
        if not all(0.0 < share < 1.0 for share in self.shares):
            raise ConfigError(
                f"shares: {list(self.shares)} must lie between 0 and 1; the whole caption is always there"
            )
        if self.runs_at_once is not None and self.runs_at_once < 1:
            raise ConfigError(f"runs_at_once: {self.runs_at_once} must be 1 or more, or null for one for each core")
        if self.hours is not None and not self.hours >= 0.0:
            raise ConfigError(f"hours: {self.hours} must be 0 or more, or null for as long as it takes")
        with_methods = {"methods", "methods_at_equal_compute"} & set(self.exhibits)
        if with_methods and "clips" not in self.methods:
            raise ConfigError("methods: without clips there is nothing to compare the others with; add it")
