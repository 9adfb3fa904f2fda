"""The table of a suite: values with intervals, paired differences from the first model, chance levels, published results."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from clips_pipeline.evaluation.metric_keys import COMPOSITIONALITY_SETS, item_name
from clips_pipeline.evaluation.per_item.comparison import CONFIDENCE, Measured, compare_all
from clips_pipeline.evaluation.suite.config import SetConfig
from clips_pipeline.evaluation.suite.published_results import PublishedModel
from clips_pipeline.evaluation.suite.run import SuiteOutcome

_HEADLINE_NAMES = ("image_to_text_recall@1", "text_to_image_recall@1", "accuracy@1")
_HEADLINE_SUBSETS = ("mean", "all")


@dataclass(frozen=True)
class TableRow:
    """One metric on one set.

    Attributes:
        group: heading of the set.
        set_name: name of the set.
        metric: full key of the metric.
        headline: whether the metric is one of those that papers compare.
        items: number of items that the bootstrap draws, and what they are.
        chance: chance level.
        measured: of each model.
        published: published value of each published model; None where it has none.
    """

    group: str
    set_name: str
    metric: str
    headline: bool
    items: str
    chance: float
    measured: tuple[Measured, ...]
    published: tuple[float | None, ...]

    @property
    def label(self) -> str:
        """Name of the metric below its set, in words: `image to text R@1`."""
        kind, middle, name = self.metric.split("/")
        subset = f"{middle} " if kind in COMPOSITIONALITY_SETS and middle != "all" else ""
        return f"{subset}{name.replace('recall@', 'R@')}".replace("_", " ")

    @property
    def best(self) -> float:
        """Highest value among the models."""
        return max(one.value for one in self.measured)


@dataclass(frozen=True)
class SetFacts:
    """A set in the list of sets.

    Attributes:
        name: its name.
        size: number of images, and of captions or entries.
        origin: where it is published.
        license: its license.
        note: why it is absent, or samples that were left out; empty for neither.
    """

    name: str
    size: str
    origin: str
    license: str
    note: str


@dataclass(frozen=True)
class SuiteTable:
    """Everything that the reports show.

    Attributes:
        models: name of each model.
        published: published models.
        rows: metrics of all sets, in the order of the configuration.
        present, absent: the sets.
        precision: precision of the towers.
        device: type of the device.
        resamples: number of resamples of the bootstrap.
        confidence: confidence level of all intervals.
    """

    models: tuple[str, ...]
    published: tuple[PublishedModel, ...]
    rows: tuple[TableRow, ...]
    present: tuple[SetFacts, ...]
    absent: tuple[SetFacts, ...]
    precision: str
    device: str
    resamples: int
    confidence: float = CONFIDENCE

    def verdicts(self, model: int) -> dict[str, int]:
        """Return on how many headline metrics a model is better than the first, even, and worse."""
        found = [row.measured[model].difference for row in self.rows if row.headline]
        return {
            name: sum(one is not None and one.verdict == name for one in found) for name in ("better", "even", "worse")
        }

    def frame(self) -> pd.DataFrame:
        """Return one row per metric and model, with all numbers; published values have no intervals."""
        rows = []
        for row in self.rows:
            shared = {
                "group": row.group,
                "set": row.set_name,
                "metric": row.metric,
                "items": row.items,
                "chance": row.chance,
            }
            for name, one in zip(self.models, row.measured, strict=True):
                own = {"model": name, "value": one.value, "low": one.low, "high": one.high}
                if (change := one.difference) is not None:
                    own |= {
                        "difference": change.difference,
                        "difference_low": change.low,
                        "difference_high": change.high,
                        "verdict": change.verdict,
                        "items_won": change.wins,
                        "items_lost": change.losses,
                        "sign_p": change.sign_p,
                    }
                rows.append({**shared, **own, "published": False})
            for model, value in zip(self.published, row.published, strict=True):
                if value is not None:
                    rows.append({**shared, "model": model.name, "value": value, "published": True})
        columns = (
            *(
                "group",
                "set",
                "metric",
                "model",
                "value",
                "low",
                "high",
                "difference",
                "difference_low",
                "difference_high",
            ),
            *("verdict", "items_won", "items_lost", "sign_p", "chance", "items", "published"),
        )
        return pd.DataFrame(rows, columns=list(columns))


def make_table(outcome: SuiteOutcome, published: Sequence[PublishedModel], resamples: int) -> SuiteTable:
    """Compute intervals and differences of all results.

    Args:
        outcome: results of all models on all sets.
        published: published results.
        resamples: number of resamples of the bootstrap.

    Raises:
        ConfigError: a result is damaged, or two models were measured on different data.
    """
    rows: list[TableRow] = []
    present: list[SetFacts] = []
    for opened in outcome.present:
        results = [outcome.load(opened.name, model) for model in outcome.models]
        first = results[0]
        metrics = list(first.metrics)
        items = [result.items() for result in results]
        measured = compare_all(items, metrics, resamples=resamples)
        for number, metric in enumerate(metrics):
            rows.append(
                TableRow(
                    opened.config.group,
                    opened.name,
                    metric,
                    _is_headline(metric),
                    f"{len(items[0].keys)} {item_name(metric)}",
                    first.chance.get(metric, 0.0),
                    tuple(of_model[number] for of_model in measured),
                    tuple(model.values.get(metric) for model in published),
                )
            )
        what = "entries" if opened.entries is not None else "captions"
        size = f"{first.images:,} images" + (f", {first.captions:,} {what}" if first.captions else "")
        skipped = ", ".join(f"{count} skipped: {reason}" for reason, count in first.skipped.items())
        present.append(SetFacts(opened.name, size, opened.config.origin, opened.config.license, skipped))
    absent = [
        SetFacts(one.name, _published_size(one.config), one.config.origin, one.config.license, one.reason)
        for one in outcome.absent
    ]
    names = tuple(model.name for model in outcome.models)
    return SuiteTable(
        names,
        tuple(published),
        tuple(rows),
        tuple(present),
        tuple(absent),
        outcome.precision,
        outcome.device,
        resamples,
    )


def _is_headline(metric: str) -> bool:
    kind, middle, name = metric.split("/")
    return middle in _HEADLINE_SUBSETS if kind in COMPOSITIONALITY_SETS else name in _HEADLINE_NAMES


def _published_size(config: SetConfig) -> str:
    counts = {"images": config.images, "captions": config.captions, "entries": config.entries}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count is not None)
