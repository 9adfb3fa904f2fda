"""What can be set about a search. Loads no Optuna."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clips_pipeline.config import ConfigError, NonNegativeInt, PositiveFloat, PositiveInt, Seed

Scalar = str | int | float | bool | None

_MAX_GRID_POINTS = 10_000


@dataclass(frozen=True)
class Dimension:
    """One searched parameter: a range (`float`, `int`) or a list of choices (`categorical`).

    Attributes:
        kind: of the values.
        low, high: ends of a range, both included.
        log: draw on a logarithmic scale.
        or_null: null is one more choice beside the range (a fragment without a budget, say).
        points: values of a range that a grid tries, from `low` to `high`; None takes every value of an `int`.
        choices: of a categorical.
    """

    kind: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    or_null: bool = False
    points: PositiveInt | None = None
    choices: tuple[Scalar, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "categorical":
            self._check_choices()
        else:
            self._check_range()

    def _check_choices(self) -> None:
        if not self.choices or self.low is not None or self.high is not None:
            raise ConfigError("a categorical dimension needs choices, and no low or high")
        if self.log or self.or_null or self.points is not None:
            raise ConfigError(
                "log, or_null and points belong to a range; write null among the choices of a categorical"
            )
        if len({(type(choice), choice) for choice in self.choices}) < len(self.choices):
            raise ConfigError("choices holds one value twice; remove one")

    def _check_range(self) -> None:
        if self.choices:
            raise ConfigError(
                f"choices belong to kind: categorical; a dimension of kind {self.kind} takes low and high"
            )
        if self.low is None or self.high is None or not self.low <= self.high:
            raise ConfigError(f"low: a dimension of kind {self.kind} needs low <= high, not {self.low} and {self.high}")
        if self.kind == "int" and (self.low % 1 or self.high % 1):
            raise ConfigError("low and high of kind int must be whole numbers; kind: float takes others")
        if self.log and self.low <= 0:
            raise ConfigError("log: true needs low above 0")
        if self.points == 1 and self.low < self.high:
            raise ConfigError("points: 1 is too few; at least 2 are needed, for low and high")

    @property
    def extreme_values(self) -> tuple[Scalar, ...]:
        """Its extreme values: every choice, or low and high, and null where it is one."""
        if self.kind == "categorical" or self.low is None or self.high is None:
            return self.choices
        low, high = (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)
        return tuple(dict.fromkeys((low, high))) + ((None,) if self.or_null else ())

    def contains(self, value: object) -> bool:
        """Whether `value` is one of its values."""
        if self.kind == "categorical":
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        if value is None:
            return self.or_null
        if isinstance(value, bool) or not isinstance(value, int | float) or self.low is None or self.high is None:
            return False
        return self.low <= value <= self.high and not (self.kind == "int" and value % 1)


@dataclass(frozen=True)
class SamplerConfig:
    """Where the next trial is.

    Attributes:
        kind: `tpe` learns from what is finished, `random` does not, `grid` tries every combination once.
        startup_trials: of `tpe`, drawn at random before it learns.
    """

    kind: Literal["tpe", "random", "grid"] = "tpe"
    startup_trials: PositiveInt = 10


@dataclass(frozen=True)
class PrunerConfig:
    """Which trials end early.

    Attributes:
        kind: `median` ends one that is below the median of earlier trials at the same step, `halving` all but the best
            share (successive halving), `none` nothing.
        startup_trials: of `median`, finished before any is ended.
        warmup_evaluations: of a trial, which never end it.
    """

    kind: Literal["none", "median", "halving"] = "median"
    startup_trials: NonNegativeInt = 5
    warmup_evaluations: NonNegativeInt = 1


@dataclass(frozen=True)
class StudyStorageConfig:
    """Where the study is kept.

    Attributes:
        kind: `sqlite` (`study.db`), `journal` (`study.journal`: several processes of this machine), or `postgresql`
            (many machines; its address stands in the credentials, as `search: {url: postgresql://…}`).
        timeout_s: seconds to wait for a server to answer, and for a lock.
        heartbeat_s: seconds between two signs that a trial's process is alive; a journal has none.
        grace_s: a trial whose last sign is older counts as killed.
    """

    kind: Literal["sqlite", "journal", "postgresql"] = "sqlite"
    timeout_s: PositiveFloat = 30.0
    heartbeat_s: PositiveInt = 30
    grace_s: PositiveInt = 120

    def __post_init__(self) -> None:
        if self.grace_s < 2 * self.heartbeat_s:
            raise ConfigError(
                f"grace_s: {self.grace_s} is less than twice heartbeat_s ({self.heartbeat_s}), and trials that live would be "
                "taken for killed; raise it"
            )


def paper_space() -> dict[str, Dimension]:
    """Fragment strategy and length, and the two loss weights."""
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
    """A study: its space by parameter path under `train`, its objectives and its budget.

    Attributes:
        study_name: within the storage.
        trials: trials the study is to have, failed ones included; a second run adds only what is missing.
        hours: of training, all trials and processes together; no trial begins after them. None for no limit.
        samples: training samples per trial.
        evaluations: of the held-out samples within a trial, the last one included; between them pruning looks.
        retries: further starts of a trial that was killed; it goes on from its checkpoint.
        seed: of the sampler.
        metric: a key of the held-out metrics.
        direction: of the metric.
        cost: also minimise FLOPs per training sample: the result is a Pareto front.
        sampler: where the next trial is.
        pruner: which trials end early.
        storage: where the study is kept.
        space: dotted path below `train` to its dimension.
    """

    study_name: str = "clips"
    trials: PositiveInt = 6
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
            raise ConfigError("cost: true has two objectives, and Optuna prunes by one; set pruner.kind to none")
        if self.pruner.kind != "none" and self.evaluations < 2:
            raise ConfigError("pruner: with one evaluation per trial there is nothing to prune by; raise evaluations")
        if self.sampler.kind == "grid":
            self._check_grid()

    def _check_grid(self) -> None:
        size = 1
        for path, dimension in self.space.items():
            if dimension.kind == "float" and dimension.points is None and dimension.low != dimension.high:
                raise ConfigError(f"space.{path}: sampler.kind grid needs points, the number of values of a range")
            whole = 1 + int((dimension.high or 0) - (dimension.low or 0))
            size *= len(dimension.choices) or (dimension.points or whole) + dimension.or_null
        if size > _MAX_GRID_POINTS:
            raise ConfigError(f"space: the grid has {size} points, more than {_MAX_GRID_POINTS}; lower points")


def study_url(kind: str, folder: Path) -> str:
    """What `optuna-dashboard` is to be given; the address of a server, which has a password, is named and not shown."""
    files = {"sqlite": f"sqlite:///{folder / 'study.db'}", "journal": str(folder / "study.journal")}
    return files.get(kind, "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE")
