"""Configuration of the method study: what is compared, with how many seeds and samples."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt

from clips_pipeline.config import ConfigError, FormerName, NonNegativeFloat, PositiveInt, Seed
from clips_pipeline.text.fragments import Strategy

Comparison = Literal[
    "methods",
    "methods_at_equal_compute",
    "fragment_lengths",
    "web_lengths",
    "ablations",
    "captioners",
    "second_generation",
]
StudyMethod = Literal["clip", "mixture", "coca", "clips", "clips sigmoid", "clips 2 positives", "captioning"]
"""Methods of training, and variants of `clips` (`plan.with_method`)."""

COMPARISONS: Final = tuple(name for name in get_args(Comparison) if name not in ("captioners", "second_generation"))
"""The comparisons that any prepared shards allow."""


@dataclass(frozen=True)
class StudyConfig:
    """Settings of `kedro run --pipelines study`.

    Attributes:
        comparisons: the comparisons to run; each becomes a table of the summary.
        seeds: every run is trained once with each seed.
        samples: training samples of a run in the method comparisons; at equal compute, of a run of `clips`.
        curve_samples: training samples of a run in the other comparisons, which have more lines; None uses `samples`.
        methods: methods of the method comparisons; the others are compared with `clips`. `clips sigmoid` has the sigmoid loss,
            `clips 2 positives` two fragments of each image, and `captioning` keeps 0.35 of the image tokens.
        optimizers: optimizers of the ablations, besides that of `train`, with the same learning rate.
        strategies: fragment strategies of the length curves.
        length_fractions: token budgets as fractions of the mean caption length, each below 1; the whole caption is
            always included.
        parallel_runs: trainings that run at the same time, each on its part of the cores; None runs one per core.
        recaptioned: folder of prepared shards whose synthetic captions a trained model has written (pipeline `recaption`), for
            the comparison `second_generation`; evaluation is on the usual shards.
        hours: no training starts later than this many hours after the start of the study, and the results cover the
            finished trainings. None sets no limit, 0 trains nothing.
    """

    comparisons: Annotated[tuple[Comparison, ...], FormerName("exhibits")] = COMPARISONS
    seeds: tuple[Seed, ...] = (0, 1, 2)
    samples: PositiveInt = 36_000
    curve_samples: PositiveInt | None = None
    methods: tuple[StudyMethod, ...] = get_args(StudyMethod)
    optimizers: tuple[str, ...] = ("muon", "lamb")
    strategies: tuple[Strategy, ...] = get_args(Strategy)
    length_fractions: Annotated[tuple[Annotated[float, Gt(0), Lt(1)], ...], FormerName("shares")] = (0.5, 0.25, 0.125)
    parallel_runs: Annotated[Annotated[int, Ge(1), Le(1024)] | None, FormerName("runs_at_once")] = None
    recaptioned: str | None = None
    hours: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        for key in ("comparisons", "seeds", "methods", "optimizers", "strategies", "length_fractions"):
            values = getattr(self, key)
            if not values and key != "optimizers":
                raise ConfigError(f"{key}: empty; name at least one")
            if len(set(values)) < len(values):
                raise ConfigError(f"{key}: {list(values)} contains duplicates; remove them")
        if "second_generation" in self.comparisons and self.recaptioned is None:
            raise ConfigError(
                "recaptioned: missing; second_generation needs a folder of prepared shards, see docs/how-to/recaption.md"
            )
        with_methods = {"methods", "methods_at_equal_compute"} & set(self.comparisons)
        if with_methods and "clips" not in self.methods:
            raise ConfigError("methods: clips is the baseline of the method comparisons; add it")
