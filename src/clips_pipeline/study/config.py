"""What a study compares, with how many seeds and samples."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt

from clips_pipeline.config import ConfigError, NonNegativeFloat, PositiveInt, Seed
from clips_pipeline.text.fragments import Strategy
from clips_pipeline.text.methods import Method

Comparison = Literal["methods", "methods_at_equal_compute", "fragment_lengths", "web_lengths", "ablations"]
COMPARISONS: Final = get_args(Comparison)


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

    comparisons: tuple[Comparison, ...] = COMPARISONS
    seeds: tuple[Seed, ...] = (0, 1, 2)
    samples: PositiveInt = 140_000
    curve_samples: PositiveInt | None = 50_000
    methods: tuple[Method, ...] = get_args(Method)
    strategies: tuple[Strategy, ...] = get_args(Strategy)
    length_fractions: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.5, 0.25, 0.125)
    parallel_runs: Annotated[int, Ge(1), Le(1024)] | None = None
    hours: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        for key in ("comparisons", "seeds", "methods", "strategies", "length_fractions"):
            values = getattr(self, key)
            if not values:
                raise ConfigError(f"{key}: empty; name at least one")
            if len(set(values)) < len(values):
                raise ConfigError(f"{key}: {list(values)} names one twice")
        with_methods = {"methods", "methods_at_equal_compute"} & set(self.comparisons)
        if with_methods and "clips" not in self.methods:
            raise ConfigError("methods: without clips there is nothing to compare the others with; add it")
