"""Configuration of a search. Does not import Optuna."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clips_pipeline.config import ConfigError, NonNegativeInt, PositiveFloat, PositiveInt, Seed

Scalar = str | int | float | bool | None
Value = Scalar | tuple[str, ...]
"""A value of a parameter; a list of names, such as `captions.captioners`, is one choice of a categorical."""

_MAX_GRID_POINTS = 10_000


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: a range (`float`, `int`) or a list of choices (`categorical`).

    Attributes:
        kind: type of the values.
        low, high: ends of a range, both included.
        log: sample on a logarithmic scale.
        or_null: null is one more choice beside the range, for example a fragment without a token budget.
        points: number of values of a range that a grid tries, from `low` to `high`; None tries every value of an `int`.
        choices: values of a categorical; a list of names is one value.
    """

    kind: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    or_null: bool = False
    points: PositiveInt | None = None
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "categorical":
            self._check_choices()
        else:
            self._check_range()

    def _check_choices(self) -> None:
        if not self.choices or self.low is not None or self.high is not None:
            raise ConfigError("choices: a categorical dimension needs choices, and no low or high")
        if self.log or self.or_null or self.points is not None:
            raise ConfigError(
                "log, or_null and points apply to ranges only; add null to the choices of a categorical instead"
            )
        if len({(type(choice), choice) for choice in self.choices}) < len(self.choices):
            raise ConfigError("choices: contains a value twice; remove one")

    def _check_range(self) -> None:
        if self.choices:
            raise ConfigError(
                f"choices: apply to kind categorical only; a dimension of kind {self.kind} takes low and high"
            )
        if self.low is None or self.high is None or not self.low <= self.high:
            raise ConfigError(f"low: a dimension of kind {self.kind} needs low <= high, not {self.low} and {self.high}")
        if self.kind == "int" and (self.low % 1 or self.high % 1):
            raise ConfigError("low and high of kind int must be whole numbers; use kind: float for others")
        if self.log and self.low <= 0:
            raise ConfigError("log: true needs low above 0")
        if self.points == 1 and self.low < self.high:
            raise ConfigError("points: 1 is too few; give at least 2, for low and high")

    @property
    def extreme_values(self) -> tuple[Value, ...]:
        """Extreme values: every choice of a categorical; low and high of a range, and null where allowed."""
        if self.kind == "categorical" or self.low is None or self.high is None:
            return self.choices
        low, high = (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)
        return tuple(dict.fromkeys((low, high))) + ((None,) if self.or_null else ())

    def contains(self, value: object) -> bool:
        """Return whether `value` is one of its values."""
        if self.kind == "categorical":
            own = tuple(value) if isinstance(value, list) else value
            return any(type(own) is type(choice) and own == choice for choice in self.choices)
        if value is None:
            return self.or_null
        if isinstance(value, bool) or not isinstance(value, int | float) or self.low is None or self.high is None:
            return False
        return self.low <= value <= self.high and not (self.kind == "int" and value % 1)


@dataclass(frozen=True)
class SamplerConfig:
    """How the next trial's values are chosen.

    Attributes:
        kind: `tpe` learns from finished trials, `random` does not, `grid` tries every combination once.
        startup_trials: number of random trials before `tpe` learns.
    """

    kind: Literal["tpe", "random", "grid"] = "tpe"
    startup_trials: PositiveInt = 10


@dataclass(frozen=True)
class PrunerConfig:
    """Which trials are stopped early.

    Attributes:
        kind: `median` stops a trial below the median of earlier trials at the same evaluation, `halving` keeps only the
            best fraction at each rung (successive halving), `none` stops none.
        startup_trials: trials that `median` lets finish before it stops any.
        warmup_evaluations: first evaluations of a trial at which it is never stopped.
    """

    kind: Literal["none", "median", "halving"] = "median"
    startup_trials: NonNegativeInt = 5
    warmup_evaluations: NonNegativeInt = 1


@dataclass(frozen=True)
class StudyStorageConfig:
    """Where the Optuna study is stored.

    Attributes:
        kind: `sqlite` (`study.db`), `journal` (`study.journal`, for several processes of one machine), or `postgresql`
            (for several machines; its URL is read from the credentials, as `search: {url: postgresql://…}`).
        timeout_s: seconds to wait for a server's answer, and for the lock.
        heartbeat_s: seconds between two heartbeats of a running trial; a journal has none.
        grace_s: a trial whose last heartbeat is older than this many seconds counts as killed.
    """

    kind: Literal["sqlite", "journal", "postgresql"] = "sqlite"
    timeout_s: PositiveFloat = 30.0
    heartbeat_s: PositiveInt = 30
    grace_s: PositiveInt = 120

    def __post_init__(self) -> None:
        if self.grace_s < 2 * self.heartbeat_s:
            raise ConfigError(
                f"grace_s: {self.grace_s} is less than twice heartbeat_s ({self.heartbeat_s}), so running trials would count as "
                "killed; raise it"
            )


def paper_space() -> dict[str, Dimension]:
    """Return the default search space: fragment strategy and length, and the two loss weights."""
    return {
        "captions.fragment.strategy": Dimension(
            "categorical", choices=("sub_caption", "truncation", "random_mask", "block_mask")
        ),
        "captions.fragment.tokens": Dimension("int", low=6, high=48, log=True, or_null=True, points=4),
        "loss.contrastive_weight": Dimension("float", low=0.5, high=2.0, log=True, points=3),
        "loss.caption_weight": Dimension("float", low=0.25, high=4.0, log=True, points=3),
    }


@dataclass(frozen=True)
class SearchConfig:
    """A hyperparameter search: search space, objectives and budget.

    Attributes:
        study_name: name of the Optuna study in the storage.
        trials: total number of trials, failed ones included; a second run adds only the missing ones.
        hours: total training hours over all trials and processes, after which no trial starts. None sets no limit.
        samples: training samples per trial.
        evaluations: evaluations on the held-out samples per trial, the last one included; the pruner checks after each.
        retries: further attempts of a trial that was killed; each resumes from the last checkpoint.
        seed: seed of the sampler.
        metric: the held-out metric that the search optimizes.
        direction: whether a larger or a smaller metric is better.
        cost: also minimize FLOPs per training sample; the result is then a Pareto front.
        sampler: how the next trial's values are chosen.
        pruner: which trials are stopped early.
        storage: where the Optuna study is stored.
        space: the search space: dotted parameter path below `train` to its dimension.
    """

    study_name: str = "clips"
    trials: PositiveInt = 30
    hours: PositiveFloat | None = None
    samples: PositiveInt = 20_000
    evaluations: PositiveInt = 4
    retries: NonNegativeInt = 2
    seed: Seed = 0
    metric: str = "mean_recall@1"
    direction: Literal["maximize", "minimize"] = "maximize"
    cost: bool = False
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    storage: StudyStorageConfig = field(default_factory=StudyStorageConfig)
    space: dict[str, Dimension] = field(default_factory=paper_space)

    def __post_init__(self) -> None:
        if not self.study_name:
            raise ConfigError("study_name: empty; give the study a name")
        if not self.space:
            raise ConfigError("space: empty; name at least one parameter path")
        if self.cost and self.pruner.kind != "none":
            raise ConfigError("cost: true gives two objectives, and Optuna prunes only by one; set pruner.kind to none")
        if self.pruner.kind != "none" and self.evaluations < 2:
            raise ConfigError("pruner: pruning needs at least two evaluations per trial; raise evaluations")
        if self.sampler.kind == "grid":
            self._check_grid()

    def _check_grid(self) -> None:
        size = 1
        for path, dimension in self.space.items():
            if dimension.kind == "float" and dimension.points is None and dimension.low != dimension.high:
                raise ConfigError(
                    f"space.{path}: sampler.kind grid needs the number of values of this range; set points"
                )
            whole = 1 + int((dimension.high or 0) - (dimension.low or 0))
            size *= len(dimension.choices) or (dimension.points or whole) + dimension.or_null
        if size > _MAX_GRID_POINTS:
            raise ConfigError(f"space: the grid has {size} points, more than {_MAX_GRID_POINTS}; lower points")


def study_url(kind: str, folder: Path) -> str:
    """Return the argument of `optuna-dashboard` for a storage. For a server it is a placeholder without the password."""
    files = {"sqlite": f"sqlite:///{folder / 'study.db'}", "journal": str(folder / "study.journal")}
    return files.get(kind, "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE")
